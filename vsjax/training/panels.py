"""Sample images for the log: source, target and prediction side by side."""

import numpy as np

GAP = 4


def stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """`image` as uint8 with `low` black and `high` white."""
    return (255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def panel(source: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """One row per target channel: the source's middle slice, then that channel's target and prediction.

    Args:
        source: `[Z, Y, X, C]`; the rows show its channels in turn.
        target: `[Z', Y, X, C']`.
        prediction: as `target`; shown with the target's contrast, so that a pale prediction looks pale.

    Returns:
        RGB image `[Y', X', 3]`, uint8.
    """
    rows = []
    for channel in range(target.shape[-1]):
        phase = source[source.shape[0] // 2, ..., channel % source.shape[-1]]
        truth = target[target.shape[0] // 2, ..., channel]
        guess = prediction[prediction.shape[0] // 2, ..., channel]
        low, high = np.percentile(truth, [1, 99.8])
        tiles = [stretch(phase, *np.percentile(phase, [1, 99])), stretch(truth, low, high), stretch(guess, low, high)]
        rows.append(np.concatenate([np.pad(tile, GAP // 2, constant_values=255) for tile in tiles], axis=1))
    return np.repeat(np.concatenate(rows)[..., None], 3, axis=-1)
