"""The manifest of a checkpoint: what a step's folder holds, and a digest of every byte of it.

`manifest.json` lies in the step's folder, beside the items. It is written when every item is on disk, into the
temporary folder that Orbax then renames to the step's number: a folder with a number has had its manifest from its
first moment, whenever a run is killed. What differs from it later is damage.

A checkpoint is read only after `check_whole`, so no library sees a file that is not as it was written. The files that
are opened are those that the folder has; the manifest's names are only compared with theirs, so none leads elsewhere.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import pydantic

from vsjax.errors import UserError, shorten
from vsjax.schema import Document, parse, parse_object

NAME = "manifest.json"
_UNREAD = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes them later; nothing reads them
_LONGEST = 64 << 20  # bytes of a JSON file; that of a thousand arrays has some 100 kB
_THREADS = 8
_DAMAGED = "the checkpoint is damaged"

_Size = Annotated[int, pydantic.Field(ge=0)]
_Digest = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


class Leaf(Document):
    """An array of a tree."""

    shape: tuple[_Size, ...]
    dtype: str


class StoredFile(Document):
    """A file of an item."""

    size: _Size = pydantic.Field(description="bytes")
    sha256: _Digest


class Item(Document):
    """One of `variables`, `average`, `optimizer`, `auxiliary`, `description`.

    Attributes:
        leaves: its arrays by path, such as "params/stem/kernel"; none of the description.
        files: by path below the item's folder.
    """

    leaves: dict[str, Leaf]
    files: dict[str, StoredFile]


class Manifest(Document):
    """Of one step.

    Attributes:
        items: by name; each is a folder.
        sha256: of `items`, so that a change of the manifest itself is seen.
    """

    items: dict[str, Item]
    sha256: _Digest


def leaves_of(tree: Any) -> dict[str, Leaf]:
    """The arrays of a tree, or what their shapes say."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        _plain_path(path): Leaf(shape=tuple(leaf.shape), dtype=str(leaf.dtype))
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def write_manifest(folder: Path, leaves: Mapping[str, Mapping[str, Leaf]]) -> None:
    """Describe the items that lie in `folder` now, each with the arrays that it is of."""
    found = {name: _files_below(folder, name) for name in leaves}
    digests = _digests(folder, [(name, file) for name, files in found.items() for file in files])
    items = {
        name: Item(
            leaves=dict(leaves[name]),
            files={file: StoredFile(size=size, sha256=digests[name, file]) for file, size in files.items()},
        )
        for name, files in found.items()
    }
    manifest = Manifest(items=items, sha256=_digest_of(items))
    (folder / NAME).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1))


def check_whole(folder: Path, items: Collection[str] | None = None) -> Manifest:
    """The manifest of a step, after checking that its folder holds what it says: the items, their files, the sizes.

    Args:
        folder: the step's.
        items: those whose bytes are checked too, if the checkpoint has them; all by default.

    Raises:
        UserError: something is missing, too much, changed or no regular file; the line names it.
    """
    manifest = _read_manifest(folder)
    found = {entry.name for entry in _scan(folder)} - {NAME, *_UNREAD}
    if differing := sorted(found ^ manifest.items.keys()):
        state = "item {} is missing" if differing[0] in manifest.items else f"holds {{}}, which is not in its {NAME}"
        raise UserError(f"{folder}: {state.format(_name(differing[0]))}; {_DAMAGED}")
    for name, item in manifest.items.items():
        found = _files_below(folder, name)
        if differing := sorted(found.keys() ^ item.files.keys()):
            state = "is missing" if differing[0] in item.files else f"is not in its {NAME}"
            raise UserError(f"{folder}: file {_name(f'{name}/{differing[0]}')} {state}; {_DAMAGED}")
        for file, size in found.items():
            if size != item.files[file].size:
                raise UserError(
                    f"{folder}: file {_name(f'{name}/{file}')} has {size} bytes instead of {item.files[file].size}; "
                    f"{_DAMAGED}"
                )
    checked = [name for name in manifest.items if items is None or name in items]
    digests = _digests(folder, [(name, file) for name in checked for file in manifest.items[name].files])
    for (name, file), digest in digests.items():
        if digest != manifest.items[name].files[file].sha256:
            raise UserError(f"{folder}: the bytes of file {_name(f'{name}/{file}')} have changed; {_DAMAGED}")
    return manifest


def read_file(path: Path) -> bytes:
    """The content of a document.

    Raises:
        UserError: it is no regular file (through links, if need be), too long, or cannot be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no regular file; {_DAMAGED}")
        if status.st_size > _LONGEST:
            raise UserError(f"{path}: has {status.st_size} bytes, which no document of a checkpoint has; {_DAMAGED}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_DAMAGED}") from error


def _read_manifest(folder: Path) -> Manifest:
    path = folder / NAME
    manifest = parse(Manifest, parse_object(read_file(path), str(path), _DAMAGED), str(path), _DAMAGED)
    if manifest.sha256 != _digest_of(manifest.items):
        raise UserError(f"{path}: has changed since it was written; {_DAMAGED}")
    return manifest


class _Entry(NamedTuple):
    name: str
    mode: int
    size: int


def _scan(folder: Path) -> list[_Entry]:
    """What lies in a folder that is one itself, not a link to one."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise UserError(f"{folder}: is no folder; {_DAMAGED}")
        with os.scandir(folder) as entries:
            return [_describe(entry) for entry in entries]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); {_DAMAGED}") from error


def _describe(entry: os.DirEntry) -> _Entry:
    """An entry; of a link to a file, that file: model hubs and git-annex keep large files so."""
    status = entry.stat(follow_symlinks=entry.is_file())
    return _Entry(entry.name, status.st_mode, status.st_size)


def _files_below(folder: Path, item: str) -> dict[str, int]:
    """The size of every file of an item, by path below its folder."""
    sizes: dict[str, int] = {}
    folders = [""]
    while folders:
        below = folders.pop()
        for entry in _scan(folder / item / below):
            path = below + entry.name
            if stat.S_ISDIR(entry.mode):
                folders.append(f"{path}/")
            elif stat.S_ISREG(entry.mode):
                sizes[path] = entry.size
            else:
                raise UserError(f"{folder}: {_name(f'{item}/{path}')} is no regular file; {_DAMAGED}")
    return sizes


def _digests(folder: Path, files: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """SHA-256 of each file (item, path), several at a time; Python's lock is free meanwhile."""

    def digest(file: tuple[str, str]) -> str:
        path = folder.joinpath(*file)
        try:
            with path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {_DAMAGED}") from error

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(files, pool.map(digest, files), strict=True))


def _digest_of(items: Mapping[str, Item]) -> str:
    plain = {name: item.model_dump(mode="json") for name, item in items.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _plain_path(path: tuple[Any, ...]) -> str:
    """A key path that reads the same for a named tuple and for the dictionary that Orbax stores it as."""
    names = [next(str(getattr(key, a)) for a in ("key", "name", "idx") if hasattr(key, a)) for key in path]
    return "/".join(names)


def _name(text: str) -> str:
    return f"'{shorten(text)}'"
