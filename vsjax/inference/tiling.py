"""XY tiles for fields of view that do not fit the device's memory at once.

Neighbouring tiles overlap by twice the margin; a cut runs through the middle of each overlap, and across it a smooth
ramp leads from one tile to the next. The weights of all tiles sum to exactly one at every pixel.

A network of finite receptive field is tiled exactly: see `choose_margin`. UNeXt2 is not of this kind: GRN and the
head's instance norm take statistics over the whole image that they see, so a tile's values depend on what the tile
contains, however wide its margin; there the ramp turns the steps between tiles into slow changes. Measured with a
UNeXt2-atto (13 slices to 1, three targets) on a phase image of 512 x 960 pixels in tiles of 384: the root mean square
difference to the whole image is 1 to 2% of the range, whatever the margin; from pixel to pixel it changes by 2 to 3%
across a hard cut, by 0.4 to 1.2% across the middle of a ramp of 96, and by 0.2 to 0.5% elsewhere.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vsjax.errors import UserError

LARGEST_MARGIN = 128
MOST_TILES = 1 << 16  # of a plane
PredictTiles = Callable[[np.ndarray, Sequence[tuple[int, int]]], np.ndarray]


def choose_margin(margin: int | None, receptive_radius: int | None, tile: tuple[int, int]) -> tuple[int, int]:
    """Margin of the tiles and width of the ramp between them, in pixels.

    Args:
        margin: what the user wants, None to choose.
        receptive_radius: how far the network looks from a pixel in Y and X; None if it sees the whole image.
        tile: (Y, X) of a tile with its margins.

    With a finite radius the margin is the radius and the cut hard, so tiles give what the whole plane gives; what the
    user adds to the margin is used for a ramp. A network that sees the whole image gets a quarter of the tile, at most
    128 pixels, of which the outer half is not used (there the missing surroundings show) and the inner half is in the
    ramp.
    """
    if receptive_radius is None:
        margin = min(LARGEST_MARGIN, min(tile) // 4) if margin is None else margin
        return margin, margin
    margin = receptive_radius if margin is None else margin
    spare = margin - receptive_radius
    return margin, min(margin, 2 * spare) if spare >= 0 else margin


@dataclass(frozen=True)
class Padding:
    """How a plane of (y, x) pixels is extended to what the network can divide; reflected, the same on both sides."""

    y: tuple[int, int]
    x: tuple[int, int]

    @classmethod
    def to_divisor(cls, shape: tuple[int, int], divisor: tuple[int, int]) -> "Padding":
        """The smallest padding that makes (y, x) multiples of the divisor."""
        sides = [(-size % d) for size, d in zip(shape, divisor, strict=True)]
        return cls(*((missing // 2, missing - missing // 2) for missing in sides))

    def pad(self, volume: np.ndarray) -> np.ndarray:
        """[Z, Y, X, C] -> [Z, Y', X', C]; the same where there is nothing to add."""
        if not any(self.y + self.x):
            return volume
        return np.pad(volume, ((0, 0), self.y, self.x, (0, 0)), mode="reflect")

    def crop(self, volume: np.ndarray) -> np.ndarray:
        """[Z, Y', X', C] -> [Z, Y, X, C]."""
        y, x = volume.shape[1:3]
        return volume[:, self.y[0] : y - self.y[1], self.x[0] : x - self.x[1]]


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the padded plane, and the weight of each of its rows and columns."""

    y: slice
    x: slice
    weight_y: np.ndarray
    weight_x: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) of it."""
        return self.y.stop - self.y.start, self.x.stop - self.x.start

    @property
    def weight(self) -> np.ndarray:
        """[Y, X] float32."""
        return self.weight_y[:, None] * self.weight_x[None, :]


def largest_tile(
    plane: tuple[int, int], divisor: tuple[int, int], fraction: float, stride: tuple[int, int], margin: int
) -> tuple[int, int]:
    """The tile (Y, X) that fits the memory of which a whole plane would need `fraction` times as much; a multiple of
    `divisor`, and no smaller than what its margins and the network's `stride` need."""
    side = math.sqrt(plane[0] * plane[1] / fraction)
    smallest = [math.ceil((2 * max(margin, n) + n) / d) * d for n, d in zip(stride, divisor, strict=True)]
    tile = tuple(max(int(side // d) * d, s) for d, s in zip(divisor, smallest, strict=True))
    return tuple(min(t, n) for t, n in zip(tile, plane, strict=True))


def plan_tiles(
    shape: tuple[int, int], tile: tuple[int, int], divisor: tuple[int, int], margin: int, ramp: int
) -> list[Tile]:
    """Cover a padded plane with tiles.

    Args:
        shape: (Y, X) of the plane in pixels, multiples of the divisor.
        tile: (Y, X) of a tile with its margins; rounded up to multiples of the divisor, down to the plane's size.
        divisor: tiles start at its multiples, so that a strided network samples a tile as it would the whole plane.
        margin: neighbouring tiles overlap by at least twice this many pixels.
        ramp: width in pixels over which one tile fades into the next, at most `2 * margin`; 0 is a hard cut.

    Raises:
        UserError: a tile is not larger than its margins, or there would be too many.
    """
    if not 0 <= ramp <= 2 * margin:
        raise ValueError(f"ramp {ramp} must lie between 0 and twice the margin {margin}")
    axes = [list(_axis(*numbers, margin, ramp)) for numbers in zip(shape, tile, divisor, strict=True)]
    if (count := len(axes[0]) * len(axes[1])) > MOST_TILES:
        raise UserError(f"tiles of {tile} pixels would be {count} in a plane of {shape}, more than {MOST_TILES}; "
                        "give a larger --tile or a smaller --margin")  # fmt: skip
    return [Tile(y, x, weight_y, weight_x) for y, weight_y in axes[0] for x, weight_x in axes[1]]


def _axis(size: int, tile: int, divisor: int, margin: int, ramp: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Places and weights of the tiles along one axis."""
    tile = min(math.ceil(tile / divisor) * divisor, size)
    stride = (tile - 2 * margin) // divisor * divisor
    if tile < size and stride < 1:
        raise UserError(
            f"a tile of {tile} pixels leaves no room between margins of {margin}; "
            f"give --tile at least {math.ceil((2 * margin + divisor) / divisor) * divisor} pixels or a smaller --margin"
        )
    starts = [*range(0, size - tile, max(stride, 1)), size - tile]
    pixels = np.arange(size, dtype=np.float64) + 0.5
    cuts = [(left + right + tile) / 2 for left, right in itertools.pairwise(starts)]
    for index, start in enumerate(starts):
        place = slice(start, start + tile)
        weight = np.ones(tile)
        if index > 0:  # 0 on the left of a cut, 1 on its right
            weight = weight * _ramp(pixels[place] - cuts[index - 1], ramp)
        if index < len(starts) - 1:
            weight = weight * (1 - _ramp(pixels[place] - cuts[index], ramp))
        yield place, weight.astype(np.float32)


def _ramp(distance: np.ndarray, width: int) -> np.ndarray:
    """A raised cosine from 0 to 1 around distance 0."""
    if width == 0:
        return (distance > 0).astype(np.float64)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / width + 0.5, 0, 1))


def predict_tiles(predict: PredictTiles, volume: np.ndarray, tiles: list[Tile], together: int = 1) -> np.ndarray:
    """Apply `predict` to `together` tiles at a time and blend.

    Args:
        predict: tiles [tiles, Z, Y, X, C] and where each lies (y, x) -> [tiles, Z, Y, X, C'].
        volume: the padded volume [Z, Y, X, C].
        tiles: from `plan_tiles` for this plane.
        together: the last tiles are repeated where these do not divide them, so that all calls have one shape.

    Returns:
        [Z, Y, X, C'] float32; divided by the sum of the weights as they were added, so that a constant stays exact.
    """
    if len(tiles) == 1:
        return predict(volume[None], [(0, 0)])[0]
    total, weights = None, np.zeros(volume.shape[1:3], np.float32)
    for first in range(0, len(tiles), together):
        group = tiles[first : first + together]
        filled = group + group[-1:] * (together - len(group))
        stacked = np.stack([volume[:, tile.y, tile.x] for tile in filled])
        predictions = predict(stacked, [(tile.y.start, tile.x.start) for tile in filled])
        if total is None:
            total = np.zeros((*volume.shape[:3], predictions.shape[-1]), np.float32)
        for tile, prediction in zip(group, predictions, strict=False):
            used_y, used_x = _support(tile.weight_y), _support(tile.weight_x)
            weight = tile.weight[used_y, used_x]
            total[:, tile.y, tile.x][:, used_y, used_x] += prediction[:, used_y, used_x] * weight[..., None]
            weights[tile.y, tile.x][used_y, used_x] += weight
    total /= weights[..., None]
    return total


def _support(weight: np.ndarray) -> slice:
    """The part of an axis where the weight is not zero."""
    used = np.flatnonzero(weight)
    return slice(int(used[0]), int(used[-1]) + 1)
