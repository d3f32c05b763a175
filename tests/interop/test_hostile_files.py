"""Files of weights made to take time and memory without end: each is refused in one line, at once and in little memory.

Pickles are written by their opcodes (see `pickletools`), archives by zipfile and struct."""

import contextlib
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.interop.test_torch_reader import FILES, tensor_pickle, zip_with
from vsjax.errors import UserError
from vsjax.interop.safetensors_reader import read_safetensors
from vsjax.interop.torch_reader import read_checkpoint

SECONDS, BYTES = 5, 64 << 20


@contextlib.contextmanager
def refused(path, message):
    """One line that begins with the file, in little time and memory."""
    tracemalloc.start()
    begin = time.process_time()  # other tests run beside it
    try:
        with pytest.raises(UserError, match=message) as caught:
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < SECONDS
    assert peak < BYTES
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def state_dict(rest=b""):
    """The beginning of {"state_dict": {"w": tensor}, ...}, and what else is in it."""
    return b"}" + text(b"state_dict") + tensor_pickle()[:-1] + b"s" + rest + b"."


def settings(value):
    """A sound checkpoint with these hyper_parameters."""
    return state_dict(text(b"hyper_parameters") + b"}" + text(b"a") + value + b"ss")


INERT = text(b"viscy") + b"q\x01" + text(b"A") + b"q\x02"
PICKLES = {
    "a memo of 2^31": (b"}r\xff\xff\xff\x7f", "exhausted before|unknown"),
    "a memo of 2^31 in a sound file": (settings(b"]r\xff\xff\xff\x7f"), None),
    "a key of shared tuples": (b"}N" + b"2\x86" * 100 + b"Ns.", "a key is neither text nor number"),
    "a set of shared tuples": (b"\x8f(N" + b"2\x86" * 100 + b"\x90.", "a key is neither text nor number"),
    "a frame of 2^62": (b"\x95" + struct.pack("<Q", 2**62) + b"}", "exhausted before|unknown"),
    "text of 2^40": (b"\x8d" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
    "bytes of 2^40": (b"\x8e" + struct.pack("<Q", 2**40) + b"x.", "expected 1099511627776 bytes"),
    "a number of 2^24 bits": (b"\x8b" + struct.pack("<I", 1 << 21) + b"\x7f" * (1 << 21) + b".", "more than 64 bits"),
    "a number of 10^5 digits": (b"I" + b"9" * 100_000 + b"\n.", "limit"),
    "a list copied again and again": (
        b"(" + b"N" * 20_000 + b"lq\x00ctorch\nSize\nq\x01" + b"h\x01h\x00\x85R" * 20_000 + b".",
        "multiplies what it holds",
    ),
    "text encoded again and again": (
        text(b"a" * 30_000) + b"q\x00c_codecs\nencode\nq\x01" + b"h\x01h\x00\x85R" * 20_000 + b".",
        "multiplies what it holds",
    ),
    "an end without a beginning": (b"t.", "takes what it did not put"),
    "an object of protocol 0": (b"(iviscy\nA\n.", "INST"),
    "an extension": (b"\x82\x01.", "EXT1"),
    "settings 10^5 deep": (settings(b"]" * 100_000 + b"a" * 99_999), "nested more than"),
    "settings in themselves": (settings(b"]q\x00h\x00a"), "nested more than"),
    "settings that share": (settings(b"N\x85" + b"2\x86" * 60), "hyper_parameters are more than"),
    "settings of another library": (settings(b"cviscy\nA\n)\x81"), None),
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_take_more_than_they_hold(tmp_path, name, legacy):
    content, message = PICKLES[name]
    path = tmp_path / "bad.ckpt"
    if legacy:
        head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2)]
        path.write_bytes(b"".join(head) + content + pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24))
    else:
        zip_with(path, content, [("0", bytes(24))])
    if message is None:
        assert set(read_checkpoint(path).tensors) == {"w"}
        return
    with refused(path, message):
        read_checkpoint(path)


def test_many_placeholders_of_one_name_are_small(tmp_path):
    """5 bytes each; a class for each would take a kilobyte."""
    content = settings(b"(" + INERT + b"h\x01h\x02\x93" * 20_000 + b"l")
    tracemalloc.start()
    read_checkpoint(zip_with(tmp_path / "a.ckpt", content, [("0", bytes(24))]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1, "size": (2**40,), "stride": (0,)}, "repeats it"),
        ({"count": 6, "size": (2, 6), "stride": (0, 1)}, "repeats it"),
        ({"count": 6, "size": (2**63,), "stride": (1,)}, "beyond its storage"),
        ({"count": 6, "size": (2**70,), "stride": (1,)}, "more than 64 bits"),
        ({"count": 6, "size": (1,) * 33, "stride": (1,) * 33}, "too many"),
        ({"count": 2**63}, "shorter than its tensors"),
    ],
)
def test_tensors_that_are_larger_than_the_file(tmp_path, changes, message):
    path = zip_with(tmp_path / "bad.pt", tensor_pickle(**changes), [("0", bytes(24))])
    with refused(path, message):
        read_checkpoint(path)


def test_many_tensors_of_one_storage(tmp_path):
    """Each is within its storage; together they would be copied to more than the file."""
    one = tensor_pickle(count=20_000, size=(20_000,), stride=(1,))[:-1]
    head, tail = one.split(b"S'w'\n")
    names = b"".join(b"S'w%d'\n" % n + tail for n in range(20))
    path = zip_with(tmp_path / "bad.pt", head + names + b".", [("0", bytes(80_000))])
    with refused(path, "repeat each other's numbers"):
        read_checkpoint(path)


def test_one_storage_of_two_types(tmp_path):
    one = tensor_pickle()[:-1]
    other = one.replace(b"}S'w'", b"S'v'").replace(b"FloatStorage", b"IntStorage")
    path = zip_with(tmp_path / "bad.pt", one + other + b".", [("0", bytes(24))])
    with refused(path, "storage 0 has two lengths or types"):
        read_checkpoint(path)


def sound(archive):
    archive.writestr("a/data.pkl", tensor_pickle())
    archive.writestr("a/data/0", bytes(24))


def compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        sound(archive)
        archive.writestr("a/data/1", bytes(30 << 20))


def lying(path):
    """Its members say that they have 2^31 bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        sound(archive)
    content = path.read_bytes().replace(struct.pack("<II", 24, 24), struct.pack("<II", 1 << 31, 1 << 31))
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def doubled(path):
    with zipfile.ZipFile(path, "w") as archive:
        sound(archive)
        sound(archive)


def with_byteorder(path, order):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tensor_pickle())
        archive.writestr("a/data/0", np.arange(6, dtype=">f4").tobytes())
        archive.writestr("a/byteorder", order)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (compressed, "compressed, which PyTorch never does"),
        (lying, "larger than the file"),
        (doubled, "two members of one name"),
        (lambda path: with_byteorder(path, b"middle" * 1000), "byteorder is .*neither little nor big"),
    ],
)
def test_archives(tmp_path, write, message):
    write(tmp_path / "bad.ckpt")
    with refused(tmp_path / "bad.ckpt", message):
        read_checkpoint(tmp_path / "bad.ckpt")


def test_a_big_endian_file_reads_right(tmp_path):
    with_byteorder(tmp_path / "big.ckpt", b"big")
    found = read_checkpoint(tmp_path / "big.ckpt").tensors["w"]
    np.testing.assert_array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("damage", ["length", "keys", "big-endian"])
def test_the_format_before_pytorch_1_6(tmp_path, damage):
    content = (FILES / "state_dict_legacy.pth").read_bytes()
    change = {
        "length": (struct.pack("<q", 3), struct.pack("<q", 1 << 40)),
        "keys": (b"\x80\x02]q\x00(", b"\x80\x02]q\x00(K\x05"),
        "big-endian": (b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
    }[damage]
    assert change[0] in content
    path = tmp_path / "bad.pth"
    path.write_bytes(content.replace(*change))
    with refused(path, "not a complete PyTorch checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_is_no_file_is_not_waited_for(tmp_path, suffix):
    pipe, folder = tmp_path / f"pipe{suffix}", tmp_path / f"folder{suffix}"
    os.mkfifo(pipe)
    folder.mkdir()
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for path in (pipe, folder, tmp_path / f"device{suffix}"):
        with refused(path, "is no regular file"):
            read_checkpoint(path)
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint("a\0b")


def write_safetensors(path, header, data=bytes(24)):
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


ENTRY = '"a":{"dtype":"F32","shape":%s,"data_offsets":%s}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[" * 100_000, "header: is not valid JSON"),
        ('{"a":' + "[" * 500 + "]" * 500 + "}", "header: is nested more than"),
        ("{" + ENTRY % ("[1e999]", "[0,24]") + "}", r"tensor a\.shape\.0: is inf"),
        ("{" + ENTRY % ("[6.0]", "[0,24]") + "}", r"tensor a\.shape\.0: is 6\.0"),
        ("{" + ENTRY % ("[true,6]", "[0,24]") + "}", r"tensor a\.shape\.0: is True"),
        ("{" + ENTRY % ("[-6]", "[0,24]") + "}", r"tensor a\.shape\.0: is -6"),
        ("{" + ENTRY % ("[4294967296,4294967296]", "[0,24]") + "}", r"tensor a\.shape: has other bytes"),
        ("{" + ENTRY % (f"[{'9' * 5000}]", "[0,24]") + "}", "header: is not valid JSON"),
        ("{" + ENTRY % (f"[0,{2**62},{2**62}]", "[0,0]") + "}", r"bytes at its end|tensor a\.shape"),
        ("{" + ENTRY % (f"[{'1,' * 99}6]", "[0,24]") + "}", r"tensor a\.shape: is .*at most 32"),
        ("{" + ENTRY % ("[6]", "[24,0]") + "}", r"tensor a\.data_offsets: does not fit"),
        ("{" + ENTRY % ("[6]", "[0,24,24]") + "}", r"tensor a\.data_offsets"),
        ("{" + ENTRY % ("[6]", "[4,28]") + "}", r"tensor a\.data_offsets: does not fit"),
        ("{" + ENTRY % ("[4]", "[0,16]") + "}", "8 bytes at its end belong to no tensor"),
        ("{" + ENTRY % ("[6]", "[0,24]") + "," + (ENTRY % ("[6]", "[0,24]")).replace('"a"', '"b"') + "}", "tensor b"),
        ("{" + (ENTRY % ("[6]", "[0,24]")).replace("F32", "F8_E4M3") + "}", r"tensor a\.dtype: is 'F8_E4M3'"),
        ('{"a":3}', "tensor a: is 3"),
        ('{"__metadata__":{"a":3},' + ENTRY % ("[6]", "[0,24]") + "}", r"metadata\.a: is 3"),
        ('{"' + "x" * 100_000 + '":3}', "tensor xxx.* x"),
    ],
)
def test_safetensors_headers(tmp_path, header, message):
    path = write_safetensors(tmp_path / "bad.safetensors", header.encode())
    with refused(path, message):
        read_safetensors(path)
