"""Read safetensors files: a JSON header and raw data, nothing that could run.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, the header, the data).
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vsjax.errors import UserError

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


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file by name; UserError with one line if it is truncated or none."""
    path = Path(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or length > len(content) - 8:
            raise ValueError("the header is cut short")
        header = json.loads(content[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("the header is not a table of tensors")
        header.pop("__metadata__", None)
        return {name: _tensor(name, entry, content, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a complete safetensors file ({reason}); fetch it again") from None


def _tensor(name: str, entry: dict[str, Any], content: bytes, start: int) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"tensor {name} has the type {entry['dtype']}, which is not supported")
    dtype = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if (
        not (0 <= begin <= end <= len(content) - start)
        or end - begin != count * dtype.itemsize
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"tensor {name} does not fit into the file")
    return np.frombuffer(content, dtype, count, start + begin).reshape(shape)
