"""Writing OME-Zarr plates and single images.

A new plate's documents are written before its pixels. An interrupted one can be continued: what is there stays, and
positions can be created from several processes once the plate knows their names (`position_names`).
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates import ngff, ngff_write
from vsjax.plates.arrays import create_array
from vsjax.plates.deletion import delete_plate
from vsjax.plates.ngff import AXES
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate, open_plate
from vsjax.plates.storage import LOCK, Store, check_relative
from vsjax.plates.zarr_group import ZARR_FORMAT, Group, open_top

_WRITES_IN_FLIGHT = 256


def create_plate(
    url: str | Path,
    *,
    ngff_version: str = "0.5",
    is_hcs: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    position_names: Iterable[str] = (),
    attributes: dict[str, Any] | None = None,
    cached: bool = True,
) -> "PlateWriter":
    """Begin a new plate, or a single image (`is_hcs=False`), or resume one.

    Args:
        url: where; a local path, file://, gs:// or s3://.
        ngff_version: "0.5" (zarr 3) or "0.4" (zarr 2).
        is_hcs: a plate of wells; otherwise one image, whose only position is named "0".
        overwrite: delete what is there first. Only what vsjax made, as its record says, see `deletion.delete_plate`.
        resume: keep what is there, if it is of the same kind and version; create it where there is nothing.
        position_names: "row/column/FOV" names to register at once; iterated more than once, not kept. Several
            processes can then create these positions without touching the plate's own documents.
        attributes: further zarr attributes of the top, such as who made it.
        cached: keep what is read and written of arrays; see `open_plate`.

    Raises UserError where something is in the way, for a bad name or version.
    """
    if ngff_version not in ZARR_FORMAT:
        raise UserError(f"{url}: OME-NGFF {ngff_version!r} cannot be written; choose 0.4 or 0.5")
    store = Store(url, cached)
    if is_hcs:
        for name in position_names:
            _check_position_name(name, store.url)
    group = Group(store, "", ZARR_FORMAT[ngff_version])
    if _is_occupied(store):
        if overwrite:
            delete_plate(store)
        elif resume:
            return _continue(store, ngff_version, is_hcs, position_names, attributes)
        else:
            raise UserError(f"{store.url}: exists already; choose another name, or ask to overwrite it or to resume")
    ome = ngff_write.plate_part((), ngff_version) if is_hcs else {}
    group.create({**(attributes or {}), **(ngff_write.wrap(ome, ngff_version) if is_hcs else {})})
    writer = PlateWriter(group, ngff_version, is_hcs)
    if is_hcs:
        writer._register(position_names, is_new=True)
        writer._know_listed()
    return writer


def _is_occupied(store: Store) -> bool:
    path = store.local_path
    if path is None:
        return store.is_zarr()
    if not path.is_dir() or path.is_symlink():
        return os.path.lexists(path)
    # TensorStore's lock of a document that was about to be written when the program was killed is nothing
    return any(not child.name.endswith(LOCK) for child in path.iterdir())


def _continue(
    store: Store, version: str, is_hcs: bool, position_names: Iterable[str], attributes: dict[str, Any] | None
) -> "PlateWriter":
    group, old = open_top(store)
    ome, found = ngff.ome_attributes(old, group.zarr_format, group.where)
    if found != version or group.zarr_format != ZARR_FORMAT[version]:
        raise UserError(
            f"{group.where}: is OME-NGFF {found}, not {version}; resume with that version or choose another name"
        )
    present = set(ome) - {"version"} if version == "0.5" else set(ome) & {"plate", "multiscales", "well", "labels"}
    if present and ("plate" in ome) != is_hcs:  # else it was stopped before its first document
        kind = "a plate" if "plate" in ome else "no plate"
        raise UserError(f"{group.where}: is {kind}, so it cannot be resumed as the other kind; choose another name")
    if attributes:
        group.update(lambda now: {**now, **attributes})
    writer = PlateWriter(group, version, is_hcs)
    if is_hcs:
        if position_names or "plate" not in ome:
            writer._register(position_names, is_new=False)
        writer._know_listed()
    return writer


def _check_position_name(name: str, url: str) -> str:
    check_relative(name, f"{url}: position {name!r}")
    parts = name.split("/")
    if len(parts) != 3 or not all(ngff.is_name(part) for part in parts):
        raise UserError(f"{url}: the position name {name!r} is not row/column/FOV of letters and digits; try A/4/0")
    return name


class PlateWriter:
    """Writes positions and labels into a plate that `create_plate` began.

    Attributes:
        url: the plate's address.
        ngff_version: "0.4" or "0.5".
        is_hcs: whether it is an HCS plate rather than a single image.
    """

    def __init__(self, group: Group, ngff_version: str, is_hcs: bool) -> None:
        self._group = group
        self.url = group.store.url
        self.ngff_version = ngff_version
        self.is_hcs = is_hcs
        self._registered: set[str] = set()  # those that were registered one by one
        self._listed: Plate | None = None  # knows those that were registered at once, without holding them

    @property
    def plate(self) -> Plate:
        """The plate as a reader sees it now. UserError for a single image that has not been created yet."""
        return open_plate(self.url)

    def update_attribute(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Replace one attribute at the top by `change(old)`, atomically, no other writer's change lost; return it."""
        return self._group.update(lambda attributes: {**attributes, key: change(attributes.get(key))})[key]

    def register(self, position_names: Sequence[str]) -> None:
        """Put names into the plate's and the wells' lists, after those that are there. UserError for a bad name."""
        self._register([name for name in position_names if not self._is_registered(name)], is_new=False)
        self._registered.update(position_names)

    def _is_registered(self, name: str) -> bool:
        return name in self._registered or (self._listed is not None and name in self._listed)

    def _know_listed(self) -> None:
        self._listed = self.plate

    def _register(self, position_names: Iterable[str], is_new: bool) -> None:
        by_well: dict[str, list[str]] = {}
        for name in position_names:
            well, _, image = _check_position_name(name, self.url).rpartition("/")
            by_well.setdefault(well, []).append(sys.intern(image))  # "0", "1" ... of every well are the same strings
        if is_new:
            self._write_wells(by_well)
        else:
            for well, images in by_well.items():
                self._extend_well(well, images)
        self._group.update(lambda attributes: self._with_wells(attributes, list(by_well)))

    def create_position(
        self,
        name: str,
        *,
        shape: Sequence[int],
        dtype: Any,
        channel_names: Sequence[str],
        pixel_size_um: Sequence[float],
        axes: str = "tczyx",
        scale: Sequence[float] | None = None,
        chunks: Sequence[int] | None = None,
        shards: Sequence[int] | None = None,
        display: Sequence[Mapping[str, Any]] = (),
        attributes: dict[str, Any] | None = None,
    ) -> Position:
        """Create an image full of zeros and return it; write into `position.array()`.

        One that is there already is returned as it is, if it is the same in shape, type and channels (so that an
        interrupted output can be resumed); otherwise UserError.

        Args:
            name: "row/column/FOV", or "0" for a single image.
            shape: (T, C, Z, Y, X).
            dtype: of the pixels.
            channel_names: one per channel.
            pixel_size_um: along z, y, x, in micrometres.
            axes: which of "tczyx" are stored; the others must have length 1.
            scale: five numbers instead of `pixel_size_um` (t in seconds, c 1, z, y, x in micrometres).
            chunks: canonical (T, C, Z, Y, X); see `arrays.create_array`.
            shards: canonical; OME-NGFF 0.5 only.
            display: per channel, what viewers are told beside its name; see `ngff_write.omero_part`.
            attributes: further zarr attributes of the image.
        """
        group = self._position_group(name)
        dtype = np.dtype(dtype)
        _check_image(group.url, shape, channel_names, axes)
        if self.is_hcs and not self._is_registered(name):
            self.register([name])
        existing = self._existing(group, name, shape, dtype, channel_names)
        if existing is not None:
            return existing
        if scale is None:
            scale = (1.0, 1.0, *pixel_size_um)
        path = f"{group.path}/0" if group.path else "0"
        create_array(group.store, path, group.zarr_format, axes, shape, dtype, chunks, shards)
        ome = ngff_write.image_part(axes, scale, name, self.ngff_version)
        ome |= ngff_write.omero_part(channel_names, dtype, display, self.ngff_version)
        group.create({**(attributes or {}), **ngff_write.wrap(ome, self.ngff_version)})
        return self._position(group, name)

    def create_label(
        self,
        position_name: str,
        label_name: str,
        shape: Sequence[int],
        dtype: Any = np.int32,
        chunks: Sequence[int] | None = None,
        shards: Sequence[int] | None = None,
    ) -> ts.TensorStore:
        """Create a label image full of zeros beside an image and return it, [T, 1, Z, Y, X], to be written to.

        Args:
            position_name: the image's, which must exist.
            label_name: letters, digits, ".", "_" and "-".
            shape: (T, 1, Z, Y, X).
            dtype: an integer type.
            chunks: canonical.
            shards: canonical; OME-NGFF 0.5 only.
        """
        group = self._position_group(position_name)
        image = self._position(group, position_name)
        where = f"{group.url}/labels"
        check_relative(label_name, where)
        if not ngff.is_name(label_name):
            raise UserError(f"{where}: the label name {label_name!r} is not letters and digits, such as nuclei")
        if np.dtype(dtype).kind not in "iu":
            raise UserError(f"{where}/{label_name}: labels are whole numbers, not {np.dtype(dtype).name}; use int32")
        if len(shape) != 5 or shape[1] != 1:
            raise UserError(f"{where}/{label_name}: shape {tuple(shape)} is not (T, 1, Z, Y, X)")
        axes = "".join(axis for axis in AXES if axis in image.axes and axis != "c")
        labels = group.child("labels")
        label = labels.child(label_name)
        array = create_array(
            group.store, f"{label.path}/0", group.zarr_format, axes, shape, np.dtype(dtype), chunks, shards
        )
        ome = ngff_write.image_part(axes, (image.scale[0], 1.0, *image.pixel_size_um), label_name, self.ngff_version)
        ome["image-label"] = {"source": {"image": "../../"}}
        label.create(ngff_write.wrap(ome, self.ngff_version))
        if labels.read() is None:
            labels.create(ngff_write.wrap({"labels": []}, self.ngff_version))
        labels.update(lambda old: self._with_label(old, label_name))
        return array

    def _position_group(self, name: str) -> Group:
        if self.is_hcs:
            return self._group.child(_check_position_name(name, self.url))
        if name != "0":
            raise UserError(
                f"{self.url}: position {name!r}: a single image has one position, '0'; create a plate for more"
            )
        return self._group

    def _position(self, group: Group, name: str) -> Position:
        return Position(group, name, self.url)

    def _existing(
        self, group: Group, name: str, shape: Sequence[int], dtype: np.dtype, channel_names: Sequence[str]
    ) -> Position | None:
        """The position as it is, None where it is not (completely) there; UserError where it is another one."""
        attributes = group.read()
        if (
            attributes is None
            or "multiscales" not in ngff.ome_attributes(attributes, group.zarr_format, group.where)[0]
        ):
            return None
        position = self._position(group, name)
        found = (position.shape, position.dtype, position.channel_names)
        wanted = (tuple(shape), dtype, tuple(channel_names))
        for field, old, new in zip(("shape", "type", "channels"), found, wanted, strict=True):
            if old != new:
                raise UserError(
                    f"{group.url}: exists with {field} {old}, not {new}; overwrite the plate or choose another name"
                )
        return position

    def _write_wells(self, by_well: dict[str, list[str]]) -> None:
        """Write the documents of wells that are certainly not there yet, many at a time."""
        rows = dict.fromkeys(well.split("/")[0] for well in by_well)
        writes = [write for row in rows for write in self._group.child(row).create_async({})]
        for well, images in by_well.items():
            _check_unique(images, f"{self.url}: well {well}")
            part = ngff_write.wrap(ngff_write.well_part(images, self.ngff_version), self.ngff_version)
            writes += self._group.child(well).create_async(part)
            if len(writes) >= _WRITES_IN_FLIGHT:
                self._group.store.wait(writes)
                writes = []
        self._group.store.wait(writes)

    def _extend_well(self, well: str, images: list[str]) -> None:
        """Put images at the end of a well's list; make the well if need be. Others may do so at the same time."""

        def change(attributes: dict[str, Any]) -> dict[str, Any]:
            ome, _ = ngff.ome_attributes(attributes, group.zarr_format, group.where)
            old = ngff.parse_well(ome, self.ngff_version, group.where) if "well" in ome else ()
            seen = set(old)
            new = [image for image in dict.fromkeys(images) if image not in seen]
            if "well" in ome:
                listed = [*ome["well"]["images"], *({"path": image} for image in new)]
                part = {"well": {**ome["well"], "images": listed}} if new else {"well": ome["well"]}
            else:
                part = ngff_write.well_part(new, self.ngff_version)
            return self._merge(attributes, part)

        row = self._group.child(well.split("/")[0])
        if row.read() is None:
            row.create({})
        group = self._group.child(well)
        if group.read() is None:
            group.create({})
        group.update(change)

    def _with_wells(self, attributes: dict[str, Any], wells: Iterable[str]) -> dict[str, Any]:
        """The plate's attributes with further wells at the end of its list, rows and columns likewise."""
        ome, _ = ngff.ome_attributes(attributes, self._group.zarr_format, self._group.where)
        known = ngff.parse_plate(ome, self.ngff_version, self._group.where) if "plate" in ome else ()
        seen = set(known)
        new = [well for well in wells if well not in seen]
        if not new and "plate" in ome:
            return attributes
        part = ngff_write.plate_part([*known, *new], self.ngff_version)
        return self._merge(attributes, {"plate": {**ome.get("plate", {}), **part["plate"]}})

    def _with_label(self, attributes: dict[str, Any], label: str) -> dict[str, Any]:
        ome, _ = ngff.ome_attributes(attributes, self._group.zarr_format, f"{self.url}: labels")
        names = ome.get("labels", [])
        return self._merge(attributes, {"labels": names if label in names else [*names, label]})

    def _merge(self, attributes: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
        """The attributes with the OME part replaced by key, everything else as it was."""
        if self.ngff_version == "0.4":
            return {**attributes, **part}
        return {**attributes, "ome": {"version": self.ngff_version, **attributes.get("ome", {}), **part}}


def _check_unique(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise UserError(f"{where}: a position's name is given twice; give each once")


def _check_image(where: str, shape: Sequence[int], channel_names: Sequence[str], axes: str) -> None:
    if len(shape) != 5 or any(int(n) < 1 for n in shape):
        raise UserError(f"{where}: shape: {tuple(shape)} is not five positive numbers (T, C, Z, Y, X)")
    if "".join(axis for axis in AXES if axis in axes) != axes or not axes.endswith("yx"):
        raise UserError(f"{where}: axes: {axes!r} is not some of 'tczyx' in this order with y and x")
    if missing := [axis for axis, n in zip(AXES, shape, strict=True) if axis not in axes and n != 1]:
        raise UserError(
            f"{where}: axes: {axes!r} lacks {missing}, along which the shape {tuple(shape)} is not 1; store it"
        )
    if len(channel_names) != shape[1] or len(set(channel_names)) != len(channel_names):
        raise UserError(
            f"{where}: channel_names: {list(channel_names)} are not {shape[1]} different names; give one per channel"
        )
