"""What --overwrite may delete: a plate or image that says that vsjax made it, and that holds nothing else."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsjax.errors import UserError
from vsjax.plates import ngff
from vsjax.plates.array_metadata import parse_array
from vsjax.plates.derived_record import parse_attribute, plate_kind
from vsjax.plates.parts import is_part
from vsjax.plates.simulation_record import SIMULATION_ATTRIBUTE, SimulationRecord
from vsjax.plates.step import RECORD_ATTRIBUTE
from vsjax.plates.storage import LOCK, Store
from vsjax.plates.zarr_group import Group, open_top

_BY_HAND = "remove it by hand or choose another name"
_OF_VIEWERS = (".DS_Store", "Thumbs.db")  # file managers put them wherever they look


def delete_plate(store: Store) -> None:
    """Delete a plate or image of vsjax's own.

    Raises:
        UserError: it is something else, or holds something that vsjax has not written there; nothing is deleted.
    """
    path = store.local_path
    if is_debris(store):
        delete_debris(store)
        return
    if path is not None and (path.is_symlink() or not path.is_dir()):
        raise _refusal(store, f"is a file or a link; {_BY_HAND}")
    if not store.is_zarr():
        raise _refusal(store, f"is not an OME-Zarr plate or image; {_BY_HAND}")
    if path is not None and any((path.parent / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        raise _refusal(store, f"is a part of {path.parent}; choose another name")
    group, attributes = open_top(store)
    ome, version = ngff.ome_attributes(attributes, group.zarr_format, group.where)
    if not _says_that_it_is_ours(group, attributes, "plate" in ome):
        raise _refusal(store, f"does not say that vsjax made it (there is no {RECORD_ATTRIBUTE!r} in it); {_BY_HAND}")
    layout = _Layout(group, version, frozenset(ngff.parse_plate(ome, version, group.where)) if "plate" in ome else None)
    for key, is_file in store.walk():
        if not (is_file and layout.has(key)):
            raise _refusal(store, f"holds {key}, which vsjax did not write; move that away or choose another name")
    store.delete()


def is_debris(store: Store) -> bool:
    """Whether a local folder is empty, or holds what a program leaves that is killed at its first document."""
    path = store.local_path
    return path is not None and path.is_dir() and not path.is_symlink() and all(map(_is_debris, path.iterdir()))


def delete_debris(store: Store) -> None:
    """Empty a folder of which `is_debris` is true."""
    for child in store.local_path.iterdir():
        child.unlink()


def _is_debris(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and (path.name.endswith(LOCK) or path.name == ".zgroup")


def _refusal(store: Store, problem: str) -> UserError:
    return UserError(f"{store.url}: is not deleted: it {problem}")


def _says_that_it_is_ours(group: Group, attributes: dict[str, Any], is_hcs: bool) -> bool:
    """UserError where a record is there but damaged."""
    made = parse_attribute(plate_kind(is_hcs), attributes.get(RECORD_ATTRIBUTE), group.where)
    simulated = attributes.get(SIMULATION_ATTRIBUTE)
    if made is None and is_hcs:
        made = parse_attribute(SimulationRecord, simulated, group.where, SIMULATION_ATTRIBUTE)
    return made is not None


class _Layout:
    """Which files vsjax's writer makes in a plate (or in a single image, where `wells` is None).

    Of wells and labels that are not listed yet only documents may be there: they are listed before pixels are written.
    """

    def __init__(self, group: Group, version: str, wells: frozenset[str] | None) -> None:
        self._group, self._version, self._wells = group, version, wells
        is_new = group.zarr_format == 3
        self._documents = ("zarr.json",) if is_new else (".zgroup", ".zattrs")
        self._array_document = "zarr.json" if is_new else ".zarray"
        self._chunks_below = ["c"] if is_new else []
        self._images = functools.lru_cache(8)(self._read_images)  # files come folder by folder
        self._labels = functools.lru_cache(8)(self._read_labels)
        self._counts = functools.lru_cache(8)(self._read_counts)

    def has(self, key: str) -> bool:
        """Whether vsjax's writer would have written there. UserError where a document that tells it is damaged."""
        *folders, name = key.removesuffix(LOCK).split("/")
        if is_part(key) or name in _OF_VIEWERS:
            return True
        if self._wells is None:
            return self._image_has("", folders, name)
        if len(folders) < 3:
            return name in self._documents and all(map(ngff.is_name, folders))
        well, image = "/".join(folders[:2]), folders[2]
        return image in self._images(well) and self._image_has(f"{well}/{image}/", folders[3:], name)

    def _image_has(self, path: str, folders: list[str], name: str) -> bool:
        if folders[:1] != ["labels"]:
            return self._level_has(path, folders, name, has_pixels=True)
        if len(folders) == 1:
            return name in self._documents
        label = folders[1]
        below = f"{path}labels/{label}/"
        return ngff.is_name(label) and self._level_has(below, folders[2:], name, has_pixels=label in self._labels(path))

    def _level_has(self, path: str, folders: list[str], name: str, has_pixels: bool) -> bool:
        """Whether it belongs to an image or label: its document, its only array "0" or a chunk of that."""
        if not folders:
            return name in self._documents
        if folders[0] != "0":
            return False
        if len(folders) == 1 and name == self._array_document:
            return True
        place, before = [*folders[1:], name], self._chunks_below
        numbers = place[len(before) :]
        counts = self._counts(f"{path}0/{self._array_document}") if has_pixels else None
        return (
            counts is not None
            and place[: len(before)] == before
            and len(numbers) == len(counts)
            and all(text.isdecimal() and int(text) < count for text, count in zip(numbers, counts, strict=True))
        )

    def _read_images(self, well: str) -> frozenset[str]:
        attributes = self._group.child(well).read() if well in self._wells else None
        return self._listed(attributes, "well", lambda ome, where: ngff.parse_well(ome, self._version, where), well)

    def _read_labels(self, path: str) -> frozenset[str]:
        folder = f"{path}labels"
        return self._listed(self._group.child(folder).read(), "labels", ngff.parse_labels, folder)

    def _listed(
        self, attributes: dict[str, Any] | None, part: str, parse: Callable[..., tuple[str, ...]], path: str
    ) -> frozenset[str]:
        where = self._group.child(path).where
        ome, _ = ngff.ome_attributes(attributes or {}, self._group.zarr_format, where)
        return frozenset(parse(ome, where)) if part in ome else frozenset()

    def _read_counts(self, key: str) -> tuple[int, ...] | None:
        """How many files an array has along each axis."""
        document = self._group.store.read_json(key)
        where = self._group.store.address(key.rpartition("/")[0])
        return document and parse_array(document, self._group.zarr_format, where).counts
