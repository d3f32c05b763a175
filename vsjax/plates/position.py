"""One image of a plate (a field of view), or a single image: what it is, its pixels, its labels."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates import ngff
from vsjax.plates.arrays import open_array
from vsjax.plates.ngff import AXES, OME_KEYS, ImageMetadata
from vsjax.plates.pixels import Pixels
from vsjax.plates.statistics_attribute import Statistics, find_statistics
from vsjax.plates.zarr_group import Group


class Position:
    """A field of view, seen as [T, C, Z, Y, X] whatever axes its file has. Nothing is read until it is asked for.

    The document (`attributes` and all that follows from it) is read once; another `Position` reads it again.

    Attributes:
        name: "A/4/0" (row, column, FOV) in a plate; "0" for a single image.
        plate_url: the address of the plate (or single image) as the user gave it.
    """

    def __init__(self, group: Group, name: str, plate_url: str, listed_in: str = "", *, is_label: bool = False) -> None:
        self._group = group
        self._is_label = is_label
        self.name = name
        self.plate_url = plate_url
        self._listed_in = listed_in
        self._attributes: dict[str, Any] | None = None
        self._reading: ts.Future | None = None
        self._arrays: dict[int, Pixels] = {}
        self._labels: dict[str, Position] = {}
        self._found: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Position({self.name!r} of {self.plate_url!r})"

    @property
    def url(self) -> str:
        """The image's address, as the user would write it."""
        return self._group.url

    @property
    def where(self) -> str:
        """The address of the image's document, for messages."""
        return self._group.where

    def prefetch(self) -> "Position":
        """Start to read the document, so that many positions' are on their way at once; returns itself."""
        if self._attributes is None and self._reading is None:
            self._reading = self._group.read_async()
        return self

    @property
    def attributes(self) -> dict[str, Any]:
        """The zarr attributes of the image, OME's and others'. UserError where the image is missing."""
        if self._attributes is None:
            self.prefetch()
            attributes = self._group.parse(self._reading)
            self._reading = None
            if attributes is None:
                source = f"{self._listed_in}: lists the image" if self._listed_in else f"{self.plate_url}: the image"
                raise UserError(
                    f"{source} {self.name}, but {self.url} does not exist; copy it there or remove it from the list"
                )
            self._attributes = attributes
        return self._attributes

    def write_attribute(self, key: str, value: Any) -> None:
        """Set one attribute (anything that JSON can hold); the others stay as they are. Atomic."""
        self.update_attribute(key, lambda old: value)

    def update_attribute(self, key: str, change: Callable[[Any], Any]) -> None:
        """Replace one attribute by `change(old)`, atomically, no other writer's change lost."""
        self._attributes = self._group.update(lambda attributes: {**attributes, key: change(attributes.get(key))})
        self._found = {}

    @functools.cached_property
    def metadata(self) -> ImageMetadata:
        """What the document says; UserError where it is not a valid OME-NGFF image."""
        ome, version = ngff.ome_attributes(self.attributes, self._group.zarr_format, self.where)
        return ngff.parse_image(ome, version, self.where)

    @property
    def axes(self) -> str:
        """The axes that the file stores, in its order, such as "tczyx" or "zyx"."""
        return self.metadata.axes

    @property
    def resolutions(self) -> int:
        """The number of resolutions in the multiscale pyramid."""
        return len(self.metadata.paths)

    @property
    def scale(self) -> tuple[float, ...]:
        """Size of a step along t, c, z, y, x at full resolution, in the file's units; 1 for an axis it has not."""
        return self.metadata.scales[0]

    @property
    def pixel_size_um(self) -> tuple[float, float, float]:
        """Size of a pixel along z, y, x in µm, at full resolution; a file without a unit is taken to mean µm."""
        return self.metadata.pixel_size_um

    def array(self, resolution: int = 0) -> Pixels:
        """The pixels [T, C, Z, Y, X] at a resolution, 0 the finest. UserError if missing or not fitting."""
        paths = self.metadata.paths
        if not isinstance(resolution, int | np.integer) or not 0 <= resolution < len(paths):
            raise UserError(
                f"{self.where}: resolution {resolution!r} does not exist; there are {len(paths)}, the finest is 0"
            )
        if resolution not in self._arrays:
            group = self._group
            path = f"{group.path}/{paths[resolution]}" if group.path else paths[resolution]
            self._arrays[resolution] = open_array(
                group.store, path, group.zarr_format, self.axes, self.where, may_be_empty=self._is_label
            )
        return self._arrays[resolution]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(T, C, Z, Y, X) at full resolution; 1 for an axis that the file has not."""
        return tuple(self.array().shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of the pixels."""
        return self.array().dtype.numpy_dtype

    @functools.cached_property
    def channel_names(self) -> tuple[str, ...]:
        """The channels' names; "channel_0", "channel_1" ... where the file has none."""
        count = self.shape[AXES.index("c")]
        labels = self.metadata.channel_labels
        if len(labels) > count:
            raise UserError(
                f"{self.where}: omero.channels: names {len(labels)} channels, but the image has {count}; correct it"
            )
        return tuple(
            labels[index] if index < len(labels) and labels[index] is not None else f"channel_{index}"
            for index in range(count)
        )

    def channel_index(self, channel: str | int) -> int:
        """The index of a channel given by name or index; UserError that lists those that exist."""
        return find_channel(self.channel_names, channel, self.where)

    def statistics(self, channel: str | int, scope: str, time: int = 0) -> Statistics:
        """A channel's intensity statistics ("mean", "std", "median", "iqr", ...) as the attributes hold them.

        Args:
            channel: name or index.
            scope: over which pixels: "dataset", "fov" or "timepoint".
            time: the time point, for "timepoint".

        Raises:
            UserError: they are missing; names the command that makes them.
        """
        name = self.channel_names[self.channel_index(channel)]
        return find_statistics(self.attributes, name, scope, time, where=self.where, plate_url=self.plate_url)

    def find_attribute(self, key: str) -> Any:
        """The value of `key` in the attributes of the image, its well or the plate, the first that has it, whatever
        OME-NGFF's own say; a dot leads into a section (`perturbation.drug`). `well`, `row` and `column` follow from the
        position's name otherwise. It is remembered: asked again, nothing is read.

        Raises:
            UserError: it is nowhere.
        """
        if key not in self._found:
            self._found[key] = self._find_attribute(key)
        return self._found[key]

    def _find_attribute(self, key: str) -> Any:
        well, first = self.name.rpartition("/")[0], key.partition(".")[0]
        above = [path for path in dict.fromkeys((well, "")) if path != self._group.path]
        groups = (Group(self._group.store, path, self._group.zarr_format) for path in above)
        for attributes in itertools.chain([self.attributes], (group.read() for group in groups)):
            found: Any = {} if first in OME_KEYS else attributes
            for part in key.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if found is not None:
                return found
        row, _, column = well.partition("/")
        from_name = {"well": well, "row": row, "column": column}
        if well and key in from_name:
            return from_name[key]
        raise UserError(
            f"{self.where}: {key!r} is no attribute of the image, its well or the plate; write it there, or name "
            "another one (well, row and column are always known)"
        )

    def label_names(self) -> tuple[str, ...]:
        """The names of the label images, none if there are none."""
        group = self._group.child("labels")
        attributes = group.read()
        if attributes is None:
            return ()
        ome, _ = ngff.ome_attributes(attributes, group.zarr_format, group.where)
        return ngff.parse_labels(ome, group.where)

    def label(self, name: str, resolution: int = 0) -> Pixels:
        """A label image as [T, 1, Z, Y, X]; UserError that lists those that exist."""
        if name not in self._labels:
            names = self.label_names()
            if name not in names:
                raise UserError(f"{self.url}/labels: label {name!r} does not exist; there are {list(names)}")
            group = self._group.child("labels").child(name)
            self._labels[name] = Position(group, f"{self.name}/labels/{name}", self.plate_url, is_label=True)
        return self._labels[name].array(resolution)


def find_channel(names: Sequence[str], channel: str | int, where: str) -> int:
    """The index among `names` of a channel given by name or index; UserError, naming `where`, that lists them."""
    if isinstance(channel, int | np.integer) and not isinstance(channel, bool):
        if 0 <= channel < len(names):
            return int(channel)
    elif list(names).count(channel) == 1:
        return list(names).index(channel)
    elif channel in names:
        raise UserError(f"{where}: channel {channel!r} is there twice in {list(names)}; choose it by its index")
    raise UserError(f"{where}: channel {channel!r} does not exist; there are {list(names)}")
