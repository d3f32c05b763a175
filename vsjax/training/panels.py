"""Sample images for the log, side by side."""

from collections.abc import Mapping

import numpy as np

GAP = 4
MAX_ROWS = 16  # channels that are shown
MAX_PIXELS = 512  # per side of an image; of a larger one every second, third, ... is shown


def stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """`image` as uint8 with `low` black and `high` white."""
    return (255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def panel(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """One row per channel (of many the first), one column per image, each the middle slice.

    Args:
        images: `[Z, Y, X, C]` by name. Those with as many channels as "target" (or "source", where there is none) are
            shown with its contrast, so that a pale prediction looks pale; the others' channels are shown in turn.

    Returns:
        RGB image `[Y', X', 3]`, uint8.
    """
    reference = images.get("target", images.get("source"))
    rows = []
    for channel in range(min(reference.shape[-1], MAX_ROWS)):
        limits = np.percentile(_middle(reference)[..., channel], [1, 99.8])
        tiles = []
        for image in images.values():
            plane = _middle(image)[..., channel % image.shape[-1]]
            shares_contrast = image.shape[-1] == reference.shape[-1] and image is not images.get("source", reference)
            tiles.append(stretch(plane, *(limits if shares_contrast or image is reference else _own_limits(plane))))
        rows.append(np.concatenate([np.pad(tile, GAP // 2, constant_values=255) for tile in tiles], axis=1))
    return np.repeat(np.concatenate(rows)[..., None], 3, axis=-1)


def _middle(image: np.ndarray) -> np.ndarray:
    steps = [-(-size // MAX_PIXELS) for size in image.shape[1:3]]
    return image[image.shape[0] // 2, :: steps[0], :: steps[1]]


def _own_limits(plane: np.ndarray) -> np.ndarray:
    return np.percentile(plane, [1, 99])
