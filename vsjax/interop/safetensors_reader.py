"""Read safetensors files: a JSON header and raw data, nothing that could run.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, the header, the data, which the tensors cover
without holes and without sharing).
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
import pydantic

from vsjax.errors import UserError, shorten
from vsjax.schema import Document, parse, parse_object

LARGEST_HEADER = 32 << 20  # bytes
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_REMEDY = "fetch it again"
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]


class TensorEntry(Document):
    """What the header says of a tensor."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Annotated[tuple[_Count, ...], pydantic.Field(max_length=32)]
    data_offsets: tuple[_Count, _Count] = pydantic.Field(description="first byte and end, from the header's end")


class _Header(Document):
    metadata: dict[str, str]


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file by name; UserError with one line if it is truncated or none."""
    path = Path(path)
    where = f"{path}: not a complete safetensors file"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise UserError(f"{where}: its header is cut short; {_REMEDY}")
    if length > LARGEST_HEADER:
        raise UserError(f"{where}: its header has {length} bytes, more than {LARGEST_HEADER}; {_REMEDY}")
    header = parse_object(content[8 : 8 + length], f"{where}: header", _REMEDY)
    parse(_Header, {"metadata": header.pop("__metadata__", {})}, f"{where}: header", _REMEDY)
    entries = {name: parse(TensorEntry, entry, f"{where}: {_name(name)}", _REMEDY) for name, entry in header.items()}
    _check_places(where, entries, len(content) - 8 - length)
    return {name: _array(where, name, entry, content, 8 + length) for name, entry in entries.items()}


def _check_places(where: str, entries: dict[str, TensorEntry], size: int) -> None:
    """UserError unless every byte of the data is of one tensor."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.data_offsets[0] != end or entry.data_offsets[1] > size:
            raise UserError(f"{where}: {_name(name)}.data_offsets: does not fit into the file or its place; {_REMEDY}")
        needed = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if entry.data_offsets[1] - end != needed:
            raise UserError(f"{where}: {_name(name)}.shape: has other bytes than its data_offsets; {_REMEDY}")
        end = entry.data_offsets[1]
    if end != size:
        raise UserError(f"{where}: {size - end} bytes at its end belong to no tensor; {_REMEDY}")


def _array(where: str, name: str, entry: TensorEntry, content: bytes, start: int) -> np.ndarray:
    flat = np.frombuffer(content, _DTYPES[entry.dtype], math.prod(entry.shape), start + entry.data_offsets[0])
    try:
        return flat.reshape(entry.shape)
    except ValueError as error:  # an empty tensor, of more pixels in its other axes than NumPy counts
        raise UserError(f"{where}: {_name(name)}.shape: {shorten(str(error))}; {_REMEDY}") from error


def _name(name: Any) -> str:
    return f"tensor {shorten(name)}"
