"""Opening OME-Zarr plates and single images.

A plate of a million positions is listed without holding them: wells and images are read as they are reached.
"""

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vsjax.errors import UserError
from vsjax.plates import ngff
from vsjax.plates.position import Position
from vsjax.plates.storage import Store
from vsjax.plates.zarr_group import Group, open_top

_AHEAD = 64  # documents that are on their way while earlier ones are used
_T = TypeVar("_T")


def open_plate(url: str | Path, cached: bool = True) -> "Plate":
    """Open an HCS plate or a single image: a local path, file://, gs://, s3:// or http(s)://.

    `cached=False` is for those who read every image once: nothing is kept of it.
    Reads the top document only (and a single image's arrays' metadata). Raises UserError, one line with the file, the
    field and the remedy, for whatever is not an OME-NGFF 0.4 or 0.5 plate or image.
    """
    store = Store(url, cached)
    group, attributes = open_top(store)
    ome, version = ngff.ome_attributes(attributes, group.zarr_format, group.where)
    if "plate" in ome:
        return Plate(group, attributes, version, ngff.parse_plate(ome, version, group.where))
    if "multiscales" in ome:
        plate = Plate(group, attributes, version, None)
        image = plate["0"]
        for resolution in range(image.resolutions):
            image.array(resolution)
        return plate
    raise UserError(_not_an_image(group, ome))


def _not_an_image(group: Group, ome: dict[str, Any]) -> str:
    if "well" in ome:
        return f"{group.where}: is a well; give the plate's folder above it, or one image in it"
    if "bioformats2raw.layout" in ome:
        return f"{group.where}: bioformats2raw.layout: holds several images; give one of them, such as {group.url}/0"
    if "labels" in ome:
        return f"{group.where}: is a list of labels; give the image's folder above it"
    if "scene" in ome:
        return f"{group.where}: scene: is not supported; give one of the images in it"
    return (
        f"{group.where}: has neither 'plate' nor 'multiscales', so it is no OME-Zarr; give a plate's or image's folder"
    )


class Plate:
    """An HCS plate, or a single image as a plate of one position named "0".

    Attributes:
        url: the address as the user gave it, without a trailing slash.
        ngff_version: "0.4" or "0.5".
        is_hcs: whether it is an HCS plate rather than a single image.
    """

    def __init__(
        self, group: Group, attributes: dict[str, Any], ngff_version: str, wells: tuple[str, ...] | None
    ) -> None:
        self._group = group
        self._attributes = attributes
        self._wells = wells
        self.url = group.store.url
        self.ngff_version = ngff_version
        self.is_hcs = wells is not None

    def __repr__(self) -> str:
        return f"Plate({self.url!r})"

    @property
    def well_names(self) -> tuple[str, ...]:
        """The wells ("A/4") in the plate's order; none for a single image."""
        return self._wells or ()

    def iter_position_names(self) -> Iterator[str]:
        """The positions' names in the plate's order, read well by well. UserError at a well that is missing."""
        if not self.is_hcs:
            yield "0"
            return
        wells = ((well, group, group.read_async()) for well in self.well_names for group in [self._group.child(well)])
        for well, group, future in _ahead(wells):
            for image in self._images(well, group.parse(future)):
                yield f"{well}/{image}"

    @functools.cached_property
    def position_names(self) -> Sequence[str]:
        """All positions' names. UserError at a well that is missing. `iter_position_names` does not hold them all."""
        return tuple(self.iter_position_names())

    def positions(self, start: int = 0, step: int = 1) -> Iterator[Position]:
        """Every `step`-th position from number `start` on, in the plate's order; their documents are fetched a few
        ahead, their pixels are not."""
        names = itertools.islice(self.iter_position_names(), start, None, step)
        return _ahead(self._position(name).prefetch() for name in names)

    def first_position(self) -> Position:
        """The first in the plate's order. UserError where there is none."""
        if (name := next(self.iter_position_names(), None)) is None:
            raise UserError(f"{self.url}: has no positions; write images into it first")
        return self._position(name)

    def __len__(self) -> int:
        return len(self.position_names)

    def __contains__(self, name: str) -> bool:
        if not isinstance(name, str):
            return False
        well, _, image = name.rpartition("/")
        if not self.is_hcs or well not in self._well_set:
            return not self.is_hcs and name == "0"
        return image in self._images_of(well)

    def __getitem__(self, name: str) -> Position:
        """The position of that name. Raises UserError that lists some of those that exist."""
        if name not in self:
            some = list(itertools.islice(self.iter_position_names(), 9))
            listed = ", ".join(some[:8]) + (", ..." if len(some) > 8 else "")
            raise UserError(f"{self.url}: position {name!r} does not exist; there are: {listed or 'none'}")
        return self._position(name)

    @property
    def attributes(self) -> dict[str, Any]:
        """The zarr attributes at the top, OME's and others', as of the opening or the last `write_attribute`."""
        return self._attributes

    def write_attribute(self, key: str, value: Any) -> None:
        """Set one attribute at the top (anything that JSON can hold); the others stay as they are. Atomic."""
        self._attributes = self._group.update(lambda attributes: {**attributes, key: value})

    @functools.cached_property
    def _well_set(self) -> frozenset[str]:
        return frozenset(self.well_names)

    def _position(self, name: str) -> Position:
        if not self.is_hcs:
            return Position(self._group, "0", self.url)
        listed_in = self._group.child(name.rpartition("/")[0]).where
        return Position(self._group.child(name), name, self.url, listed_in)

    def _images(self, well: str, attributes: dict[str, Any] | None) -> tuple[str, ...]:
        group = self._group.child(well)
        if attributes is None:
            raise UserError(
                f"{self._group.where}: plate.wells: lists the well {well}, but {group.url} does not exist; "
                "copy it there or remove it from the list"
            )
        ome, version = ngff.ome_attributes(attributes, group.zarr_format, group.where)
        if "well" not in ome:
            raise UserError(
                f"{group.where}: well: is missing, so the images of well {well} are unknown; copy the well's metadata"
            )
        return ngff.parse_well(ome, version, group.where)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a plate is rarely dropped, and 64 wells are little)
    def _images_of(self, well: str) -> frozenset[str]:
        return frozenset(self._images(well, self._group.child(well).read()))


def _ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, taken from `items` `_AHEAD` before they are needed."""
    iterator = iter(items)
    queue = deque(itertools.islice(iterator, _AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(itertools.islice(iterator, 1))


def require_same_channels(plate: Plate, channels: Sequence[str | int]) -> None:
    """UserError at the first position that lacks one of `channels`, or whose pixels have another type than the first's.

    Channels by index must also have the same name everywhere. Reads every position's metadata.
    """
    first: Position | None = None
    for position in plate.positions():
        names = [position.channel_names[position.channel_index(channel)] for channel in channels]
        if first is None:
            first, expected = position, names
            continue
        if names != expected:
            raise UserError(
                f"{position.where}: omero.channels: {names} where {first.where} has {expected}; "
                "give the channels by name, or put these positions into separate plates"
            )
        if position.dtype != first.dtype:
            raise UserError(
                f"{position.url}: pixels of type {position.dtype.name} where {first.url} has {first.dtype.name}; "
                "convert them to one type, or put these positions into separate plates"
            )
    if first is None:
        plate.first_position()


def describe_positions(plate: Plate) -> dict[tuple[tuple[int, ...], str, tuple[str, ...]], list[str]]:
    """The positions' names by (shape [T, C, Z, Y, X], pixel type, channel names); a mixed plate has several keys."""
    groups: dict[tuple[tuple[int, ...], str, tuple[str, ...]], list[str]] = {}
    for position in plate.positions():
        groups.setdefault((position.shape, position.dtype.name, position.channel_names), []).append(position.name)
    return groups
