"""What a batch holds, by role: `source`, `target`, `labels`, `class`, ... whatever a task asks for by name.

A role is channels, NGFF labels or a piece of metadata. It says how its part is checked, read, normalised and resampled,
so that the way from a plate to a batch knows no family.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
import tensorstore as ts
from ml_collections import ConfigDict
from pydantic import Field

from vsjax.errors import UserError, shorten
from vsjax.intensity.normalization import Normalization, location_scale
from vsjax.plates.arrays import read
from vsjax.plates.position import Position
from vsjax.plates.step import LARGEST_ID
from vsjax.schema import CONFIG_REMEDY, Document, Name, Names, parse

Place = tuple[Sequence[int], slice, slice]  # slices, which may repeat, rows and columns
Request = tuple[Position, int, Any]  # position, time point, and what `Role.request` gave for them
_SMALL = ("uint8", "int8", "uint16", "int16")  # as whole numbers they are exact in float32, and move in less time


def pixel_type(stored: Iterable[np.dtype]) -> np.dtype:
    """The type of a batch's channels, of images stored in these: that of all where it is small, otherwise float32."""
    kinds = {dtype.name for dtype in stored}
    return np.dtype(kinds.pop() if len(kinds) == 1 and kinds <= {*_SMALL} else np.float32)


def _stack(volumes: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """`np.stack` into memory that begins at a multiple of 64 bytes: JAX does not copy it for a CPU."""
    shape = (len(volumes), *volumes[0].shape)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return np.stack(volumes, out=memory[first : first + size].view(dtype).reshape(shape), casting="unsafe")


class Role(Protocol):
    """What a role is made of.

    Attributes:
        spatial: whether it is an image, which augmentation moves with the others.
        nearest: whether values between pixels are those of the nearest pixel, not interpolated.
    """

    spatial: ClassVar[bool]
    nearest: ClassVar[bool]

    def check(self, position: Position) -> None:
        """Raise a UserError where a position does not have it."""

    def shapes(self, name: str, size: int, crop: tuple[int, int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        """Of what `arrays` gives for `size` crops (z, y, x)."""

    def request(self, position: Position, time: int, place: Place, batch: ts.Batch) -> Any:
        """Start to read one crop."""

    def arrays(self, name: str, requests: Sequence[Request], dtype: np.dtype) -> dict[str, np.ndarray]:
        """What a batch holds of these, under names that begin with `name`; `dtype` is that of pixels of channels
        (`pixel_type`)."""


class ChannelRole(Document):
    """Channels: `[B, Z, Y, X, C]` of `pixel_type`, in stored units, with `NAME_location` and `NAME_scale` `[B, C]` that
    normalise them (0 and 1 where that is decided on the device)."""

    channels: Names = Field(description="names, one or more")
    normalization: Normalization
    spatial: ClassVar[bool] = True
    nearest: ClassVar[bool] = False

    def check(self, position: Position) -> None:
        """UserError where a channel or its statistics are missing or unusable (constant or not finite)."""
        for time in range(position.shape[0]):
            self.location_scale(position, time)

    def shapes(self, name: str, size: int, crop: tuple[int, int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        """Pixels, as of the widest type that they may have, location and scale."""
        count = len(self.channels)
        shapes = {name: (size, *crop, count), f"{name}_location": (size, count), f"{name}_scale": (size, count)}
        return {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in shapes.items()}

    def request(self, position: Position, time: int, place: Place, batch: ts.Batch) -> ts.Future:
        """The pixels of all channels."""
        indices = [position.channel_index(channel) for channel in self.channels]
        return position.array()[time].oindex[indices, *place].read(batch=batch)

    def arrays(self, name: str, requests: Sequence[Request], dtype: np.dtype) -> dict[str, np.ndarray]:
        """Pixels, location and scale."""
        volumes = [np.moveaxis(read(future, position.url), 0, -1) for position, _, future in requests]
        pairs = [self.location_scale(position, time) for position, time, _ in requests]
        return {
            name: _stack(volumes, dtype),
            f"{name}_location": np.stack([location for location, _ in pairs]),
            f"{name}_scale": np.stack([scale for _, scale in pairs]),
        }

    def location_scale(self, position: Position, time: int) -> tuple[np.ndarray, np.ndarray]:
        """`[C]` each, from the plate's statistics."""
        indices = [position.channel_index(channel) for channel in self.channels]
        location, scale = np.zeros(len(indices), np.float32), np.ones(len(indices), np.float32)
        if self.normalization.scope in ("dataset", "fov", "timepoint"):
            for index, channel in enumerate(self.channels):
                statistics = position.statistics(channel, self.normalization.scope, time)
                where = f"{channel} of {position.url}"
                location[index], scale[index] = location_scale(statistics, self.normalization.statistic, where)
        return location, scale

    def limits(self, position: Position, time: int) -> np.ndarray:
        """The lowest and the highest value `[C, 2]` after normalisation, from the plate's statistics of the FOV;
        UserError where they lack these."""
        location, scale = self.location_scale(position, time)
        limits = np.zeros((len(self.channels), 2), np.float32)
        for index, channel in enumerate(self.channels):
            statistics = position.statistics(channel, "fov", time)
            if not {"min", "max"} <= statistics.keys():
                raise UserError(
                    f"{position.url}: the statistics of {channel} lack min or max; run python -m vsjax.preprocess on "
                    "the plate again, or give config.task.process.limits"
                )
            limits[index] = statistics["min"], statistics["max"]
        return (limits - location[:, None]) / scale[:, None]


class LabelRole(Document):
    """NGFF label images: int32 `[B, Z, Y, X, L]`, ids as they are stored, 0 for background."""

    labels: Names = Field(description="names, one or more")
    spatial: ClassVar[bool] = True
    nearest: ClassVar[bool] = True

    def check(self, position: Position) -> None:
        """UserError where a label image is missing, is not of whole numbers or has not the image's shape."""
        for label in self.labels:
            array = position.label(label)
            where = f"{position.url}/labels/{label}"
            if array.dtype.numpy_dtype.kind not in "iu":
                raise UserError(f"{where}: holds {array.dtype.name}, labels are whole numbers; convert it to int32")
            shape = (position.shape[0], 1, *position.shape[2:])
            if tuple(array.shape) != shape:
                raise UserError(
                    f"{where}: shape {tuple(array.shape)} (T, C, Z, Y, X) differs from the image's {shape}; write the "
                    "label at the image's resolution"
                )

    def shapes(self, name: str, size: int, crop: tuple[int, int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        """The ids."""
        return {name: jax.ShapeDtypeStruct((size, *crop, len(self.labels)), np.int32)}

    def request(self, position: Position, time: int, place: Place, batch: ts.Batch) -> list[ts.Future]:
        """The ids of each label image."""
        return [position.label(label)[time, 0].oindex[place].read(batch=batch) for label in self.labels]

    def arrays(self, name: str, requests: Sequence[Request], dtype: np.dtype) -> dict[str, np.ndarray]:
        """The ids; UserError for one that int32 does not hold."""
        volumes = []
        for position, _, futures in requests:
            ids = [read(future, position.url) for future in futures]
            if max((image.max() for image in ids), default=0) > LARGEST_ID:
                raise UserError(
                    f"{position.url}/labels: holds an id above {LARGEST_ID}; number the objects anew from 1"
                )
            volumes.append(np.stack(ids, axis=-1).astype(np.int32))
        return {name: np.stack(volumes)}


class MetadataRole(Document):
    """A class from the plate's metadata (`Position.find_attribute`): int32 `[B]`, the value's place in `classes`."""

    metadata: Name = Field(description='an attribute of the image, its well or the plate, or "well", "row", "column"')
    classes: Names = Field(description="its values, one or more")
    spatial: ClassVar[bool] = False
    nearest: ClassVar[bool] = False

    def check(self, position: Position) -> None:
        """UserError where the value is none of the classes."""
        self.index(position)

    def shapes(self, name: str, size: int, crop: tuple[int, int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        """The classes' numbers."""
        return {name: jax.ShapeDtypeStruct((size,), np.int32)}

    def request(self, position: Position, time: int, place: Place, batch: ts.Batch) -> None:
        """Nothing: the position remembers what `check` has read."""

    def arrays(self, name: str, requests: Sequence[Request], dtype: np.dtype) -> dict[str, np.ndarray]:
        """The classes' numbers."""
        return {name: np.array([self.index(position) for position, _, _ in requests], np.int32)}

    def index(self, position: Position) -> int:
        """The number of a position's class."""
        return self.number(position.find_attribute(self.metadata), position.where)

    def number(self, value: Any, where: str) -> int:
        """The number of a class; UserError where there is none of that name. `where` it stands is for the message."""
        value = str(value)
        if value not in self.classes:
            raise UserError(
                f"{where}: {self.metadata} is {shorten(repr(value))}, none of the classes {', '.join(self.classes)}; "
                "name it in the role's classes"
            )
        return self.classes.index(value)


ROLES: dict[str, type[ChannelRole | LabelRole | MetadataRole]] = {
    "channels": ChannelRole,
    "labels": LabelRole,
    "metadata": MetadataRole,
}


def make_roles(config: Any, where: str = "config.roles", remedy: str = CONFIG_REMEDY) -> dict[str, Role]:
    """The roles of `config.roles`: each section has `channels` (and `normalization`), `labels`, or `metadata` (and
    `classes`). `where` and `remedy` are for messages.

    Raises:
        UserError: a section is none of these, or a field of it is wrong.
    """
    roles = {}
    for name, section in (config.to_dict() if isinstance(config, ConfigDict) else config).items():
        here = f"{where}.{shorten(str(name))}"
        kinds = [kind for kind in ROLES if isinstance(section, Mapping) and kind in section]
        if len(kinds) != 1:
            raise UserError(f"{here}: must have one of {', '.join(ROLES)}, which say what kind of role it is; {remedy}")
        roles[name] = parse(ROLES[kinds[0]], section, here, remedy)
    return roles
