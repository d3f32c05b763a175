"""PyTorch's files, read without PyTorch: right numbers from odd tensors, one clear line from bad files, no code run."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsjax.errors import UserError
from vsjax.interop.torch_reader import read_checkpoint

FILES = Path(__file__).parent / "files"  # written by make_files.py


def test_every_type_and_layout_reads_as_pytorch_wrote_it():
    tensors = {name.removeprefix("model."): t for name, t in read_checkpoint(FILES / "lightning.ckpt").tensors.items()}
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "base": base,
        "rows_from_1": base[1:],
        "every_other_column": base[:, ::2],
        "transposed": base.T,
        "scalar": np.float32(7),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.arange(3, dtype=np.float32),
        "bfloat16": np.arange(5).astype(ml_dtypes.bfloat16),
        "bool": np.array([True, False, True]),
    }
    for name in ("float64", "float16", "int64", "int32", "int16", "int8", "uint8"):
        expected[name] = np.arange(5, dtype=name)
    assert set(tensors) == set(expected)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype, name
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_settings_come_out_as_plain_values():
    found = read_checkpoint(FILES / "lightning.ckpt").hyper_parameters
    assert found["lr"] == 2e-4
    assert found["config"] == {"depth": 5}


def test_the_format_before_pytorch_1_6():
    tensors = read_checkpoint(FILES / "state_dict_legacy.pth").tensors
    assert set(tensors) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    np.testing.assert_array_equal(tensors["weight"], np.ones(3))
    np.testing.assert_array_equal(tensors["bias"], np.zeros(3))


def zip_with(path, content, storages=()):
    """A checkpoint whose pickle is `content`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        for key, raw in storages:
            archive.writestr(f"a/data/{key}", raw)
    return path


class RunsCommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, legacy):
    trace = tmp_path / "trace"
    content = pickle.dumps({"state_dict": {"w": RunsCommand(f"touch {trace}")}}, protocol=2)
    path = tmp_path / "bad.ckpt"
    if legacy:
        path.write_bytes(content)
    else:
        zip_with(path, content)
    with pytest.raises(UserError, match=rf"bad.ckpt: refused.* \({os.system.__module__}.system\)"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "torch.storage _load_from_bytes",
        "torch load",
        "numpy.core.multiarray _reconstruct",
        "viscyx.engine Loss",
        "collections OrderedDict.__init__.__globals__",
    ],
)
def test_other_names_are_refused(tmp_path, name):
    module, attribute = name.split()
    path = zip_with(tmp_path / "bad.ckpt", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(path)


def tensor_pickle(count=6, offset=0, size=(2, 3), stride=(3, 1)):
    """The pickle of {"w": tensor} with a storage of `count` floats, by opcodes."""

    def numbers(values):
        return b"(" + b"".join(f"I{value}\n".encode() for value in values) + b"t"

    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\ntQ" % count
    arguments = b"(" + storage + b"I%d\n" % offset + numbers(size) + numbers(stride) + b"I00\n}t"
    return b"}S'w'\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_the_hand_written_pickle_is_a_valid_one(tmp_path):
    raw = np.arange(6, dtype="<f4").tobytes()
    path = zip_with(tmp_path / "good.pt", tensor_pickle(offset=1, size=(2, 2), stride=(1, 3)), [("0", raw)])
    np.testing.assert_array_equal(read_checkpoint(path).tensors["w"], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("changes", "floats"),
    [
        ({"offset": 1}, 6),
        ({"stride": (4, 1)}, 6),
        ({"stride": (-3, 1)}, 6),
        ({"offset": -1}, 6),
        ({"size": (2, 3, 1)}, 6),
        ({}, 5),
        ({"count": -1}, 6),
        ({"count": 2**60, "size": (2**60,), "stride": (1,)}, 6),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, changes, floats):
    raw = np.zeros(floats, "<f4").tobytes()
    path = zip_with(tmp_path / "bad.pt", tensor_pickle(**changes), [("0", raw)])
    with pytest.raises(UserError, match=r"bad.pt: not a complete PyTorch checkpoint"):
        read_checkpoint(path)


def test_files_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "absent.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(UserError, match="not a complete PyTorch checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    with pytest.raises(UserError, match="holds no tensors"):
        read_checkpoint(zip_with(tmp_path / "empty.pt", pickle.dumps({"a": 1})))
    with pytest.raises(UserError, match="holds a list"):
        read_checkpoint(zip_with(tmp_path / "list.pt", pickle.dumps([1])))


def read_or_refuse(path):
    """Anything but a result or a UserError of one line fails the test."""
    try:
        read_checkpoint(path)
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError("the message has several lines") from error


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "damaged.ckpt"


@pytest.mark.parametrize("name", ["lightning.ckpt", "state_dict_legacy.pth"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_gives_a_user_error_or_nothing_worse(scratch, name, data):
    """Cut short: always an error. Bytes changed inside the pickle: an error, or other names and numbers."""
    content = (FILES / name).read_bytes()
    if data.draw(st.booleans()):
        scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(UserError):
            read_checkpoint(scratch)
        return
    start = content.index(b"data.pkl") if name == "lightning.ckpt" else 0
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(start, min(start + 4000, len(content) - 1)))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(bytes(damaged))
    read_or_refuse(scratch)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_in_a_sound_archive(scratch, data):
    """The archive's checksums do not stand between the pickle and the reader here."""
    with zipfile.ZipFile(FILES / "lightning.ckpt") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    damaged = bytearray(entries[name])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    entries[name] = bytes(damaged)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, raw in entries.items():
            archive.writestr(entry, raw)
    scratch.write_bytes(stream.getvalue())
    read_or_refuse(scratch)
