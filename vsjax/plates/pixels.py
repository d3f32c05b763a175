"""The pixels of an image or label: a TensorStore whose reads look first at the chunks' files.

TensorStore takes a chunk that is not there for one that was never written, as zarr says; but also one whose place is
taken by a folder or a broken link, and it waits for ever for a pipe.
"""

import contextlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from vsjax.disk import has_file
from vsjax.errors import UserError, shorten
from vsjax.plates.array_metadata import ChunkFiles

_MANY_BYTES, _MANY_FILES = 1 << 30, 1 << 16  # of a read; of so much there must be something on disk
_LARGEST_FILE = 64 << 20  # bytes of a chunk's file or shard, beside four times those of its pixels
_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")  # a file or folder of chunks in the array's
_PART = 1000  # at least one chunk in so many
_DRAWN = 1 << 15  # chunks, at random, that are looked at first


class Pixels:
    """A view [T, C, Z, Y, X] of an array, or a part of one; it is indexed, read and written like a TensorStore.

    Attributes:
        store: the TensorStore.
    """

    def __init__(self, store: ts.TensorStore, files: ChunkFiles, folder: Path | None, may_be_empty: bool) -> None:
        """A view of `store`; `folder` is the array's where it is local, and labels `may_be_empty`."""
        self.store = store
        self._about = (files, folder, may_be_empty)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def __getitem__(self, index: Any) -> "Pixels":
        return Pixels(self.store[index], *self._about)

    def __setitem__(self, index: Any, values: Any) -> None:
        self.store[index] = values

    @property
    def oindex(self) -> "_ByEachAxis":
        """Indexing with a list per axis, as `ts.TensorStore.oindex`."""
        return _ByEachAxis(self)

    def read(self, **options: Any) -> ts.Future:
        """Start to read; hand the future to `arrays.read`.

        Raises:
            UserError: a chunk's file is something else, or next to nothing is there of very much that is asked for.
        """
        self._check_files()
        return self.store.read(**options)

    def _check_files(self) -> None:
        files, folder, may_be_empty = self._about
        if folder is None:
            return
        per_axis = _chunks_of(self.store, files)
        asked = math.prod(map(len, per_axis))
        size = asked * math.prod(files.chunks) * files.bytes
        may_be_empty |= asked <= _MANY_FILES and size <= _MANY_BYTES
        there = 0
        if may_be_empty or asked <= _MANY_FILES or _some_are_there(files, folder, per_axis):
            there = _count(files, folder, itertools.product(*per_axis))
        if asked and not there:
            _check_names(folder, files)
        enough = may_be_empty or there * _PART >= asked
        if not enough and not (there == 0 and _holds(folder, asked // _PART)):  # such as one blank frame of a movie
            raise UserError(
                f"{folder}: hardly any of {asked} chunks of {size} bytes that are to be read is there; copy the plate "
                "again, correct the shape in the array's document, or leave the image out if it is empty"
            )


class _ByEachAxis:
    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def __getitem__(self, index: Any) -> Pixels:
        return Pixels(self._pixels.store.oindex[index], *self._pixels._about)


def _chunks_of(view: ts.TensorStore, files: ChunkFiles) -> list[Sequence[int]]:
    """The chunks that a view needs, along each stored axis."""
    transform = view.spec().transform
    domain, per_axis = transform.domain, []
    for output, chunk in zip(transform.output, files.chunks, strict=True):
        if output.method == ts.OutputIndexMethod.constant:
            per_axis.append((output.offset // chunk,))
        elif output.method == ts.OutputIndexMethod.array:
            per_axis.append(_distinct(output.offset + output.stride * output.index_array.reshape(-1), chunk))
        else:
            along = domain[output.input_dimension]
            ends = [output.offset + output.stride * place for place in (along.inclusive_min, along.inclusive_max)]
            if abs(output.stride) <= chunk:
                per_axis.append(range(min(ends) // chunk, max(ends) // chunk + 1) if len(along) else ())
            else:
                per_axis.append(_distinct(np.arange(min(ends), max(ends) + 1, abs(output.stride)), chunk))
    return per_axis


def _distinct(places: np.ndarray, chunk: int) -> list[int]:
    return np.unique(places // chunk).tolist()


def _some_are_there(files: ChunkFiles, folder: Path, per_axis: Sequence[Sequence[int]]) -> bool:
    """Whether there are some of many chunks, drawn at random: to look for all of what is not there takes minutes."""
    counts = tuple(map(len, per_axis))
    drawn = np.unravel_index(np.random.default_rng(0).integers(math.prod(counts), size=_DRAWN), counts)
    indices = (tuple(axis[i] for axis, i in zip(per_axis, at, strict=True)) for at in zip(*drawn, strict=True))
    return _count(files, folder, indices) * 4 * _PART >= _DRAWN  # 4: chance refuses no image that has enough


def _holds(folder: Path, number: int) -> bool:
    """Whether the folder of an array holds more than so many files."""
    seen = 0
    return any((seen := seen + len(names)) > number + 1 for _, _, names in os.walk(folder))


def _check_names(folder: Path, files: ChunkFiles) -> None:
    """Where no chunk is found there may be none: but not if there are some under names that the document does not give
    them, as when it tells another separator."""
    expected = files.key((0,) * len(files.shape))
    with os.scandir(folder) if folder.is_dir() else contextlib.nullcontext(()) as entries:
        name = next((entry.name for entry in entries if _CHUNK.fullmatch(entry.name)), None)
    if name is not None and re.sub(r"\d+", "0", name) != expected.split("/")[0]:
        raise UserError(
            f"{folder}: holds {shorten(name)}, but its document names chunks such as {expected}; "
            "correct dimension_separator or chunk_key_encoding in it, or copy the plate again"
        )


def _count(files: ChunkFiles, folder: Path, indices: Iterable[tuple[int, ...]]) -> int:
    """How many of these chunks there are. UserError where something else has the place of one."""
    there = 0
    largest = _LARGEST_FILE + 4 * math.prod(files.chunks) * files.bytes
    folders: dict[str, bool] = {}  # a million chunks lie in some thousand
    for index in indices:
        path = f"{folder}/{files.key(index)}"
        above = path.rpartition("/")[0]
        if above not in folders:
            folders[above] = _has_folder(above, folder)
        there += folders[above] and has_file(path, largest=largest)
    return there


def _has_folder(path: str, array: Path) -> bool:
    """Whether chunks can be in the folder at `path`, which is the array's or below it. Where it is not there, they were
    never written if the first above it that is there is a folder; UserError otherwise."""
    above = path
    while not os.path.isdir(above) and above != str(array):
        if os.path.lexists(above):
            raise UserError(f"{above}: is no folder, but chunks belong into it; copy the plate again")
        above = os.path.dirname(above)
    return above == path
