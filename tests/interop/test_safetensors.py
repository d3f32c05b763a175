"""The safetensors format, written here by its specification."""

import json

import ml_dtypes
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.interop.safetensors_reader import read_safetensors

ARRAYS = {
    "a": ("F32", np.arange(6, dtype="<f4").reshape(2, 3)),
    "b": ("BF16", np.arange(3).astype(ml_dtypes.bfloat16)),
    "c": ("I64", np.array(5)),
    "d": ("F16", np.zeros((0, 2), "<f2")),
}


def write(path, change=None, cut=0):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in ARRAYS.items():
        begin = len(data)
        data += array.tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, len(data)]}
    if change:
        change(header)
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    path.write_bytes(content[: len(content) - cut])
    return path


def test_reads_what_was_written(tmp_path):
    tensors = read_safetensors(write(tmp_path / "x.safetensors"))
    assert set(tensors) == set(ARRAYS)
    for name, (_, array) in ARRAYS.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("cut", [1, 30, 200, 10_000])
def test_truncated(tmp_path, cut):
    with pytest.raises(UserError, match=r"x\.safetensors: not a complete safetensors file"):
        read_safetensors(write(tmp_path / "x.safetensors", cut=cut))


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [7, 3]},
        {"shape": [-2, -3]},
        {"data_offsets": [-24, 0]},
        {"data_offsets": [0, 10**9]},
        {"dtype": "F8_E4M3"},
        {"shape": "ab"},
    ],
)
def test_headers_that_lie(tmp_path, entry):
    with pytest.raises(UserError, match="not a complete safetensors file"):
        read_safetensors(write(tmp_path / "x.safetensors", change=lambda header: header["a"].update(entry)))
