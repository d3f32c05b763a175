"""One zarr group, of format 2 (.zgroup and .zattrs) or 3 (zarr.json): its attributes, read and changed in place."""

from collections.abc import Callable
from typing import Any

import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates.storage import Store, check_relative

ZARR_FORMAT = {"0.4": 2, "0.5": 3}


class Group:
    """A zarr group at `path` ("" is the top) of a store. Nothing is read until it is asked for."""

    def __init__(self, store: Store, path: str, zarr_format: int) -> None:
        self.store = store
        self.path = path
        self.zarr_format = zarr_format

    @property
    def url(self) -> str:
        """The group's address, as the user would write it."""
        return self.store.address(self.path)

    @property
    def key(self) -> str:
        """The store's key of the document that holds the attributes."""
        return _join(self.path, "zarr.json" if self.zarr_format == 3 else ".zattrs")

    @property
    def where(self) -> str:
        """The address of the document that holds the attributes, for messages."""
        return self.store.address(self.key)

    def child(self, path: str) -> "Group":
        """The group at `path` below this one; UserError for a path that would lead elsewhere."""
        return Group(self.store, _join(self.path, check_relative(path, self.where)), self.zarr_format)

    def read_async(self) -> ts.Future:
        """Start to read the attributes; hand the future to `parse`."""
        return self.store.read_async(self.key)

    def parse(self, future: ts.Future) -> dict[str, Any] | None:
        """The attributes that `read_async` brings; None where there is no group."""
        document = self.store.parse_json(self.key, future)
        if document is None:
            return {} if self.zarr_format == 2 and self._has_zgroup() else None
        return self._attributes(document)

    def read(self) -> dict[str, Any] | None:
        """The attributes; None where there is no group. UserError where the document is malformed."""
        return self.parse(self.read_async())

    def create(self, attributes: dict[str, Any]) -> None:
        """Make the group, or give an existing one these attributes on top of those that it has."""
        if self.zarr_format == 2:
            self.store.write_json(_join(self.path, ".zgroup"), {"zarr_format": 2})
        self.update(lambda old: {**old, **attributes})

    def create_async(self, attributes: dict[str, Any]) -> list[tuple[str, ts.Future]]:
        """Start to make a group that is not there yet; hand what this returns to `Store.wait`."""
        if self.zarr_format == 3:
            return [self.store.write_json_async(self.key, self._document({}, attributes))]
        group = self.store.write_json_async(_join(self.path, ".zgroup"), {"zarr_format": 2})
        return [group, self.store.write_json_async(self.key, attributes)] if attributes else [group]

    def update(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace the attributes by `change(attributes)`, atomically, no other writer's change lost; return them."""

        def change_document(document: dict[str, Any]) -> dict[str, Any]:
            return self._document(document, change(self._attributes(document)))

        return self._attributes(self.store.update_json(self.key, change_document))

    def _document(self, old: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
        if self.zarr_format == 2:
            return attributes
        return {"zarr_format": 3, "node_type": "group", **old, "attributes": attributes}

    def _attributes(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.zarr_format == 2:
            return document
        if document.get("node_type", "group") != "group":
            raise UserError(f"{self.where}: is an array, not an OME-Zarr group; give the folder above it")
        attributes = document.get("attributes", {})
        if not isinstance(attributes, dict):
            raise UserError(f"{self.where}: attributes: is not a JSON object; write the plate again")
        return attributes

    def _has_zgroup(self) -> bool:
        return self.store.read_json(_join(self.path, ".zgroup")) is not None


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def open_top(store: Store) -> tuple[Group, dict[str, Any]]:
    """The group at the top of a store, in whichever zarr format it has, and its attributes.

    Raises UserError where there is nothing, or something that is not a zarr group.
    """
    futures = {key: store.read_async(key) for key in ("zarr.json", ".zattrs", ".zgroup", ".zarray")}
    documents = {key: store.parse_json(key, future) for key, future in futures.items()}
    if documents["zarr.json"] is not None:
        group = Group(store, "", 3)
        return group, group.parse(futures["zarr.json"]) or {}
    if documents[".zarray"] is not None:
        raise UserError(f"{store.url}: is a zarr array, not an OME-Zarr plate or image; give the folder above it")
    if documents[".zattrs"] is not None or documents[".zgroup"] is not None:
        return Group(store, "", 2), documents[".zattrs"] or {}
    if not store.exists():
        problem = "does not exist" if store.local_path else "does not exist or may not be read"
        raise UserError(f"{store.url}: {problem}; check the path to the plate or image")
    raise UserError(
        f"{store.url}: is not a zarr (no zarr.json, .zgroup or .zattrs in it); give an OME-Zarr plate or image"
    )
