"""Files of safetensors, written and changed by hand."""

import json
import random
from collections.abc import Mapping

import numpy as np

from scripts.fuzzing import documents, files
from scripts.fuzzing.tokens import any_token

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "C64", "text", "")


def write(state: Mapping[str, np.ndarray]) -> bytes:
    """The file of float32 arrays."""
    header, data = {}, b""
    for name, array in state.items():
        raw = array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return _join(json.dumps(header).encode(), data)


def read(content: bytes) -> dict[str, np.ndarray]:
    """An independent reader of float32 files: what the `safetensors` package makes of it."""
    from safetensors.numpy import load

    return load(content)


def _join(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def mutate(content: bytes, choose: random.Random) -> tuple[bytes, str]:
    """One random change, and what it is."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = choose.choice(["header"] * 4 + ["entry"] * 4 + ["length", "bytes", "data"])
    if kind == "header":
        change = documents.mutate(header, choose)
        return _join(change.content, data), f"header: {change}"
    if kind == "entry":
        return _change_entry(header, data, choose)
    if kind == "length":
        value = choose.choice([0, 1, 7, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1])
        return value.to_bytes(8, "little") + content[8:], f"the header's length is {value}"
    how = choose.choice(files.CONTENT)
    if kind == "data":
        return _join(header, files.change_content(data, how, choose)), f"the data are {how}"
    return files.change_content(content, how, choose), f"the file is {how}"


def _change_entry(header: bytes, data: bytes, choose: random.Random) -> tuple[bytes, str]:
    """A tensor's dtype, shape or offsets: numbers that almost fit, and ones that do not."""
    table = json.loads(header)
    name = choose.choice(list(table))
    part = choose.choice(["dtype", "shape", "data_offsets"])
    entry = table[name]
    if part == "dtype":
        entry[part] = choose.choice(DTYPES)
        return _join(json.dumps(table).encode(), data), f"{name}: dtype {entry[part]!r}"
    place = choose.randrange(max(1, len(entry[part])))
    if entry[part] and choose.random() < 0.6:
        token = str(entry[part][place] + choose.choice([-1, 1, 4, -4, 2**40, -(2**40), 2**62]))
        path = (name, part, place)
    else:
        token = choose.choice([any_token(choose)[1], "[0, 1, 2, 3]", "[1e999]", f"[{2**40}, {2**40}]", "[0, 0, -1]"])
        path = (name, part)
    change = documents.replace(table, path, token)
    return _join(change.content, data), f"header: {change}"
