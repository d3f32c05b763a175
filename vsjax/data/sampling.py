"""Where crops are taken: uniformly, or in proportion to a fluorescence channel's intensity ("degree of labelling")."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vsjax.data.fovs import FieldOfView
from vsjax.errors import UserError
from vsjax.plates.arrays import read

GRID = 16  # pixels between the samples of the importance map: finer than a cell, 256 times less than the image
FLOOR = 0.1  # of the mean importance, given to every place, so that background is seen as well


@dataclass(frozen=True)
class Crop:
    """One crop: the FOV's number, the time point, and the origin in voxels (z, y, x). A crop that begins above the
    stack or ends below it repeats the first or last slice."""

    fov: int
    time: int
    origin: tuple[int, int, int]


class CropSampler:
    """Draws crop origins in the FOVs; every draw depends on the generator it is given and on the images alone.

    Args:
        fovs: the FOVs to draw from.
        size: voxels (z, y, x) of a crop, as it will be read.
        importance_channel: name of the channel whose intensity weighs the crop's centre; None draws uniformly.
        z_margins: slices that a crop may reach beyond the first and the last one. A network that predicts only the
            middle of its input is asked for every slice of a stack, so it must train on windows that reach beyond.

    Raises:
        UserError: a crop is larger than an image, or the channel does not exist.
    """

    def __init__(
        self,
        fovs: Sequence[FieldOfView],
        size: tuple[int, int, int],
        importance_channel: str | None = None,
        z_margins: tuple[int, int] = (0, 0),
    ) -> None:
        for fov in fovs:
            for axis, want, have in zip("zyx", size, fov.position.shape[2:], strict=True):
                if want > have:
                    raise UserError(
                        f"{fov.position.url}: the image has {have} voxels in {axis} but training reads {want} "
                        "(config.data.patch and what the augmentation's rotation and scale add); set a smaller "
                        "patch, or smaller config.augment ranges"
                    )
        self._fovs = fovs
        self._size = size
        self._channel = importance_channel
        self._z_margins = z_margins
        self._maps: dict[tuple[int, int], np.ndarray] = {}
        self._lock = threading.Lock()
        if importance_channel is not None:
            for fov in fovs:
                fov.position.channel_index(importance_channel)

    def draw(self, fov: int, time: int, rng: np.random.Generator) -> Crop:
        """A crop number `fov` at time point `time`."""
        shape = self._fovs[fov].position.shape[2:]
        room = [have - want + 1 for have, want in zip(shape, self._size, strict=True)]
        z, y, x = (int(rng.integers(count)) for count in (room[0] + sum(self._z_margins), *room[1:]))
        z -= self._z_margins[0]
        if self._channel is not None:
            y, x = self._weighted_origin(fov, time, rng)
        return Crop(fov, time, (z, y, x))

    def _weighted_origin(self, fov: int, time: int, rng: np.random.Generator) -> tuple[int, int]:
        """A cell of the importance map drawn by weight, a pixel in it drawn uniformly: the crop's centre."""
        weights = self._importance(fov, time)
        cell = int(np.searchsorted(np.cumsum(weights.ravel()), rng.random() * weights.sum(), side="right"))
        cell_yx = np.unravel_index(min(cell, weights.size - 1), weights.shape)
        origin = []
        for index, want, have in zip(cell_yx, self._size[1:], self._fovs[fov].position.shape[3:], strict=True):
            centre = int(index) * GRID + int(rng.integers(GRID))
            origin.append(int(np.clip(centre - want // 2, 0, have - want)))
        return origin[0], origin[1]

    def _importance(self, fov: int, time: int) -> np.ndarray:
        """The coarse map `[Y/GRID, X/GRID]` of one FOV, read once: mean over z of the intensity above its 5th
        percentile, plus a floor."""
        with self._lock:
            if (fov, time) not in self._maps:
                position = self._fovs[fov].position
                channel = position.channel_index(self._channel)
                half = GRID // 2
                view = position.array()[time, channel, :, half::GRID, half::GRID]
                image = read(view.read(), position.url).astype(np.float64).mean(axis=0)
                weights = np.maximum(image - np.percentile(image, 5), 0.0)
                self._maps[fov, time] = weights + FLOOR * weights.mean() + 1e-12
            return self._maps[fov, time]


def grid_crops(fovs: Sequence[FieldOfView], size: tuple[int, int, int], most: int) -> list[Crop]:
    """Crops for validation: the middle z window of every time point, tiled without overlap and centred in the plane,
    at most `most`, evenly spread over the list."""
    crops = []
    for number, fov in enumerate(fovs):
        shape = fov.position.shape
        spare = [have - want for have, want in zip(shape[2:], size, strict=True)]
        starts = [
            range((have % want) // 2, have - want + 1, want) for have, want in zip(shape[3:], size[1:], strict=True)
        ]
        crops += [
            Crop(number, time, (spare[0] // 2, y, x)) for time in range(shape[0]) for y in starts[0] for x in starts[1]
        ]
    keep = np.unique(np.linspace(0, len(crops) - 1, min(most, len(crops))).round().astype(int))
    return [crops[index] for index in keep]
