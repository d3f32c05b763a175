"""What an array's own document (.zarray, zarr.json) says: typed and bounded before TensorStore is given it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from vsjax.errors import UserError, shorten
from vsjax.schema import Document, parse

SUPPORTED = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
LARGEST_CHUNK = 2 << 30  # bytes: a chunk is decoded whole
LARGEST_PLANE = 1 << 32  # pixels in Y and X; slide scanners reach it
LARGEST = {"t": 1 << 15, "c": 1 << 10, "z": 1 << 15, "y": 1 << 31, "x": 1 << 31}
MOST_CHUNKS = 1 << 22  # of one time point: a light sheet of 1000 slices in chunks of 128 x 128 has a million a channel
_SPARE = 64 << 20  # bytes: a chunk of these may be larger than its image
_REMEDY = "restore the document or copy the plate again"

_Size = Annotated[int, pydantic.Field(ge=1, le=1 << 62)]
_Sizes = tuple[_Size, ...]


class _Open(Document):
    """A document of the zarr standard: fields that are not needed here are TensorStore's to read."""

    model_config = pydantic.ConfigDict(extra="ignore")


class _Grid(_Open):
    chunk_shape: _Sizes


class _RegularGrid(_Open):
    name: Literal["regular"]
    configuration: _Grid


class _Separator(_Open):
    separator: Literal["/", "."] | None = None


class _KeyEncoding(_Open):
    name: Literal["default", "v2"]
    configuration: _Separator = _Separator()


class _Array3(_Open):
    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: _Sizes
    data_type: Any
    chunk_grid: _RegularGrid
    chunk_key_encoding: _KeyEncoding
    codecs: tuple[Any, ...]


class _Array2(_Open):
    zarr_format: Literal[2]
    shape: _Sizes
    chunks: _Sizes
    dtype: Any
    dimension_separator: Literal["/", "."] = "."


@dataclass(frozen=True)
class ChunkFiles:
    """The files of an array: chunks, or shards of them.

    Attributes:
        shape: of the array, in stored order.
        chunks: of a file, likewise.
        inner: of what is decoded at once: smaller than a file where files are shards.
        prefix: of every file's name, such as "c/".
        separator: between the chunk's numbers in it.
        bytes: of a pixel.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner: tuple[int, ...]
    prefix: str
    separator: str
    bytes: int

    @property
    def counts(self) -> tuple[int, ...]:
        """How many files there are along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def key(self, index: tuple[int, ...]) -> str:
        """The name of a file, relative to the array."""
        return self.prefix + self.separator.join(map(str, index))


def parse_array(document: Mapping[str, Any], zarr_format: int, where: str) -> ChunkFiles:
    """What the document of the array at the address `where` says of its chunks.

    Raises:
        UserError: a field is missing or wrong.
    """
    if zarr_format == 2:
        array = parse(_Array2, document, f"{where}/.zarray:", _REMEDY)
        dtype, chunks, inner = _dtype2(array.dtype), array.chunks, array.chunks
        prefix, separator = "", array.dimension_separator
    else:
        array = parse(_Array3, document, f"{where}/zarr.json:", _REMEDY)
        dtype, chunks = array.data_type, array.chunk_grid.configuration.chunk_shape
        inner = _inner_chunk(array.codecs, f"{where}/zarr.json") or chunks
        is_default = array.chunk_key_encoding.name == "default"
        separator = array.chunk_key_encoding.configuration.separator or ("/" if is_default else ".")
        prefix = f"c{separator}" if is_default else ""
    if dtype not in SUPPORTED:
        raise UserError(
            f"{where}: pixels of type {shorten(str(dtype))} are not supported; convert to one of {', '.join(SUPPORTED)}"
        )
    if not len(array.shape) == len(chunks) == len(inner):
        raise UserError(f"{where}: has {len(array.shape)} dimensions, but chunks of {len(chunks)}; {_REMEDY}")
    return ChunkFiles(array.shape, chunks, inner, prefix, separator, np.dtype(dtype).itemsize)


def check_sizes(files: ChunkFiles, axes: str, where: str, listed_in: str) -> None:
    """UserError for an array that is not its image's, or would fill the memory or take for ever.

    Args:
        files: its chunks.
        axes: those that are stored, in their order.
        where, listed_in: addresses of the array, and of the image's document, for the message.
    """
    if len(files.shape) != len(axes):
        raise UserError(
            f"{listed_in}: multiscales.0.axes: there are {len(axes)} ({axes}), but the array {where} has "
            f"{len(files.shape)} dimensions; correct the axes"
        )
    sizes, inner = dict(zip(axes, files.shape, strict=True)), files.inner
    counts = dict(zip(axes, (-(-size // chunk) for size, chunk in zip(files.shape, inner, strict=True)), strict=True))
    wrong = [
        f"{sizes[axis]} along {axis} (at most {most})" for axis, most in LARGEST.items() if sizes.get(axis, 1) > most
    ]
    if (plane := sizes["y"] * sizes["x"]) > LARGEST_PLANE:
        wrong.append(f"{plane} pixels in a plane (at most {LARGEST_PLANE})")
    if (chunks := math.prod(count for axis, count in counts.items() if axis != "t")) > MOST_CHUNKS:
        wrong.append(f"{chunks} chunks in a time point (at most {MOST_CHUNKS})")
    chunk, image = math.prod(inner) * files.bytes, math.prod(files.shape) * files.bytes
    if chunk > LARGEST_CHUNK or chunk > max(_SPARE, 64 * image):
        wrong.append(f"chunks of {chunk} bytes (at most {LARGEST_CHUNK}, and in proportion to the image's {image})")
    if wrong:
        raise UserError(f"{where}: claims {wrong[0]}; correct the document, or split the image or its chunks")


def _inner_chunk(codecs: tuple[Any, ...], where: str) -> tuple[int, ...] | None:
    """The chunk that is decoded where files are shards, None where they are not."""
    for codec in codecs:
        if isinstance(codec, Mapping) and codec.get("name") == "sharding_indexed":
            grid = parse(_Grid, codec.get("configuration"), f"{where}: codecs.sharding_indexed", _REMEDY)
            return _inner_chunk(_as_items(codec["configuration"].get("codecs")), where) or grid.chunk_shape
    return None


def _as_items(value: Any) -> tuple[Any, ...]:
    """A list's items; none of anything else, which is TensorStore's to refuse."""
    return tuple(value) if isinstance(value, list | tuple) else ()


def _dtype2(text: Any) -> Any:
    """The name of a zarr 2 type such as "<u2", the text itself where it is no number's."""
    kinds = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
    found = re.fullmatch(r"[<>|]([biufc])(\d{1,2})", text) if isinstance(text, str) else None
    return text if found is None else kinds[found[1]] + (str(8 * int(found[2])) if found[1] != "b" else "")
