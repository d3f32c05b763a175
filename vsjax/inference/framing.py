"""Stacks of several sizes in calls of one shape, so that the network is compiled once for them.

The planes of a plate's stacks are gathered in groups; those of a group lie in the corner of frames that are as large as
the largest of them in either direction, and the network leaves what is beside them out (`models.frame`).
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np

from vsjax.inference.windows import Apply

Plane = tuple[int, int]
LARGEST_RATIO = 2  # of a frame's pixels to those of an image in it


@dataclass(frozen=True)
class Group:
    """Stacks that are predicted by one program.

    Attributes:
        planes: (Y, X) of each, padded to what the network can divide; different ones, the largest first.
        depth: slices of the shallowest, by which the number of windows per call is chosen.
    """

    planes: tuple[Plane, ...]
    depth: int

    @property
    def frame(self) -> Plane:
        """What holds every plane."""
        return max(y for y, _ in self.planes), max(x for _, x in self.planes)

    @property
    def framed(self) -> bool:
        """Whether there are planes that do not fill it."""
        return len(self.planes) > 1

    def has_frames(self, space: int) -> bool:
        """Whether they are put into frames: not where devices share a plane."""
        return self.framed and space == 1


@functools.lru_cache(maxsize=4)
def group_stacks(stacks: frozenset[tuple[int, int, int]], framed: bool) -> list[Group]:
    """Gather stacks (Z, Y, X) so that no frame has more than twice the pixels of an image in it; the groups depend on
    which stacks there are, not on their order. Where the family is not `framed`, each plane has its own."""
    depths: dict[Plane, int] = {}
    for depth, *plane in stacks:
        depths[*plane,] = min(depth, depths.get((*plane,), depth))
    groups: list[list[Plane]] = []
    for plane in sorted(depths, key=lambda plane: (-_pixels(plane), plane)):
        for group in groups if framed else ():
            larger = Group((*group, plane), 0)
            if _pixels(larger.frame) <= LARGEST_RATIO * min(map(_pixels, larger.planes)):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return [Group(tuple(group), min(depths[plane] for plane in group)) for group in groups]


def _pixels(plane: Plane) -> int:
    return plane[0] * plane[1]


@dataclass(frozen=True)
class Framing:
    """Windows of one plane in frames of another.

    Attributes:
        plane: (Y, X) of the windows.
        frame: that of the frames, in whose first corner they lie.
    """

    plane: Plane
    frame: Plane

    def put(self, volumes: np.ndarray) -> np.ndarray:
        """[..., Y, X, C] into frames; what is beside them is zero."""
        if self.plane == self.frame:
            return volumes
        rows, columns = (whole - part for whole, part in zip(self.frame, self.plane, strict=True))
        return np.pad(volumes, ((0, 0),) * (volumes.ndim - 3) + ((0, rows), (0, columns), (0, 0)))

    def take(self, volumes: np.ndarray) -> np.ndarray:
        """Undo `put`."""
        return volumes[..., : self.plane[0], : self.plane[1], :]

    def region(self, turns: int) -> np.ndarray:
        """`Frame.region` of frames that were turned by `np.rot90` so often."""
        (rows, columns), (_, width) = self.plane, self.frame
        region = (0, rows, 0, columns)
        height = self.frame[0]
        for _ in range(turns):
            top, bottom, left, right = region
            region = (width - right, width - left, top, bottom)
            height, width = width, height
        return np.array(region, np.int32)


def filled(apply: Apply, batch_size: int) -> Apply:
    """`apply` with calls of always so many windows: the last one is repeated where there are fewer."""

    def fill(windows: np.ndarray, origins: np.ndarray) -> jax.Array:
        missing = batch_size - len(windows)
        if not missing:
            return apply(windows, origins)
        windows, origins = (np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for x in (windows, origins))
        return apply(windows, origins)[:-missing]

    return fill
