"""PyTorch's files, written and changed by hand, opcode by opcode: no PyTorch is needed, nothing here runs a pickle."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scripts.fuzzing import files
from scripts.fuzzing.tokens import DEEP

MAGIC = 0x1950A86A20F9469CFC6C
BOMB_BYTES = 3 << 29
HUGE = (0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, -(2**40), 10**300)
NAMES = (
    "os system", "builtins eval", "builtins exec", "posix system", "torch load", "numpy.core.multiarray _reconstruct",
    "torch._utils _rebuild_tensor_v3", "torch.storage _load_from_bytes",
    "collections OrderedDict.__init__.__globals__", "viscy.x Loss", "lightning.y Thing", "pathlib PosixPath",
    "argparse Namespace", "torch Size", "builtins set", "collections defaultdict", "collections OrderedDict",
    "_codecs encode", "torch device", "",
)  # fmt: skip


class Raw(bytes):
    """Opcodes that stand for a value."""


@dataclass(frozen=True)
class Tensor:
    """A call of `_rebuild_tensor_v2`: every argument can be something else than it should."""

    key: Any
    count: Any
    size: Any
    stride: Any
    offset: Any = 0
    storage: str = "FloatStorage"
    kind: Any = "storage"
    view: Any = ()


def opcodes(value: Any) -> bytes:
    """A value as opcodes, without memo and final stop."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Tensor):
        storage = Raw(f"ctorch\n{value.storage}\n".encode())
        reference = opcodes((value.kind, storage, value.key, "cpu", value.count, *value.view)) + b"Q"
        arguments = (Raw(reference), value.offset, value.size, value.stride, False, Raw(b"}"))
        return b"ctorch._utils\n_rebuild_tensor_v2\n" + opcodes(arguments) + b"R"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    return pickle.dumps(value, protocol=2)[2:-1]  # without the protocol and the stop


def tensors_of(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Each array as a tensor with a storage of its own."""
    return {
        name: Tensor(str(key), array.size, array.shape, tuple(s // array.itemsize for s in array.strides))
        for key, (name, array) in enumerate(state.items())
    }


def pickled(state: Mapping[str, np.ndarray], settings: Any = None, tensors: Any = None) -> bytes:
    """`data.pkl` of a Lightning checkpoint, or of a plain `state_dict` where there are no settings."""
    tensors = tensors if tensors is not None else tensors_of(state)
    content = tensors if settings is None else {"epoch": 1, "state_dict": tensors, "hyper_parameters": settings}
    return b"\x80\x02" + opcodes(content) + b"."


def write_zip(content: bytes, state: Mapping[str, np.ndarray], **members: bytes) -> bytes:
    """The format since PyTorch 1.6; `members` replace or join its own."""
    entries = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": array.astype("<f4").tobytes() for key, array in enumerate(state.values())}
    entries |= members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in entries.items():
            archive.writestr(f"archive/{name}", raw)
    return file.getvalue()


def write_legacy(state: Mapping[str, np.ndarray], content: bytes | None = None, counts: Any = None) -> bytes:
    """The format before: five pickles, then every storage's count and numbers."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = [str(key) for key in range(len(state))]
    parts = [b"\x80\x02" + opcodes(value) + b"." for value in (MAGIC, 1001, system)]
    parts += [content or pickled(state), b"\x80\x02" + opcodes(keys) + b"."]
    for key, array in enumerate(state.values()):
        count = (counts or {}).get(key, array.size)
        parts += [struct.pack("<Q", count % 2**64), array.astype("<f4").tobytes()]
    return b"".join(parts)


def mutate(state: Mapping[str, np.ndarray], choose: random.Random, legacy: bool) -> tuple[bytes, str]:
    """A file with one random change, and what it is. A change that begins with "valid" may alter what is read."""
    kind = choose.choice(
        ["tensor"] * 5 + ["settings"] * 4 + ["opcodes"] * 3 + ["names", "file", "container", "storages"]
    )
    settings = (
        None if legacy else {"model_config": {"in_channels": 1, "out_channels": 1, "depth": 1, "in_stack_depth": 2}}
    )

    def write(content: bytes) -> bytes:
        return write_legacy(state, content) if legacy else write_zip(content, state)

    if kind == "tensor":
        tensors, what = _change_tensor(tensors_of(state), choose)
        return write(pickled(state, settings, tensors)), what
    if kind == "settings":
        name, value = _hostile_settings(choose)
        return write(pickled(state, value)), f"settings: {name}"
    if kind == "names":
        name = choose.choice(NAMES).partition(" ")
        call = Raw(f"c{name[0]}\n{name[2]}\n".encode() + opcodes(("touch was_run",)) + b"R")
        return write(pickled(state, {"model_config": call})), f"calls {name[0]}.{name[2]}"
    if kind == "opcodes":
        content = files.change_content(pickled(state, settings), choose.choice(["flipped", "cut", "flipped"]), choose)
        return write(content), "valid archive around changed opcodes"
    if kind == "storages":
        return _change_storages(state, choose, settings, legacy)
    if kind == "file" or legacy:
        how = choose.choice(files.CONTENT)
        return files.change_content(write(pickled(state, settings)), how, choose), f"the file is {how}"
    return _change_container(state, choose, pickled(state, settings))


def _change_tensor(tensors: dict[str, Any], choose: random.Random) -> tuple[Any, str]:
    name = choose.choice(list(tensors))
    tensor = tensors[name]
    field = choose.choice(["key", "count", "size", "stride", "offset", "storage", "kind", "view"])
    old = getattr(tensor, field)
    others: dict[str, Callable[[], Any]] = {
        "storage": lambda: choose.choice(
            ["DoubleStorage", "BoolStorage", "UntypedStorage", "HalfStorage", "QInt8Storage", "x"]
        ),
        "kind": lambda: choose.choice(["Storage", "", 1, None]),
        "view": lambda: choose.choice([(None,), (("k", 0, 1),), (1, 2, 3)]),
        "key": lambda: choose.choice(["99", "../../x", "/etc/passwd", "", 0, None, "0" * 100_000, "byteorder"]),
    }
    if field in others:
        new = others[field]()
    elif field in ("size", "stride") and old and choose.random() < 0.7:
        place = choose.randrange(len(old))
        new = (*old[:place], choose.choice([*HUGE, old[place] + 1, old[place] - 1, 1.5, "2", None]), *old[place + 1 :])
    else:
        number = old if isinstance(old, int) else 1
        new = choose.choice([*HUGE, number + 1, number - 1, 1.5, "2", None, [], (), True, (2,) * 70, (1,) * 100_000])
    what = f"valid archive, {name}: {field} {str(new)[:60]}"
    return {**tensors, name: replace(tensor, **{field: new})}, what


def _hostile_settings(choose: random.Random) -> tuple[str, Any]:
    shared = b"]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(60))  # each twice in the next: 2^60 leaves
    options: dict[str, Any] = {
        "deep list": Raw(b"]" * DEEP + b"a" * (DEEP - 1)),
        "deep tuple": Raw(b")" + b"\x85" * DEEP),
        "deep dict": Raw(b"}" + b"}" * 0 + b"}U\x01a" * DEEP + b"N" + b"s" * DEEP),
        "shared lists": Raw(shared),
        "a list in itself": Raw(b"]q\x00h\x00a"),
        "a dict in itself": Raw(b"}q\x00U\x01ah\x00s"),
        "memo of 2^31": Raw(b"Nr" + struct.pack("<I", 2**31 - 1)),
        "memo of 2^28": Raw(b"Nr" + struct.pack("<I", 2**28)),
        "text memo of 2^60": Raw(b"Np%d\n" % 2**60),
        "get of 2^31": Raw(b"j" + struct.pack("<I", 2**31 - 1)),
        "text of 2^40": Raw(b"\x8d" + struct.pack("<Q", 2**40) + b"x"),
        "bytes of 2^40": Raw(b"\x8e" + struct.pack("<Q", 2**40) + b"x"),
        "array of 2^40": Raw(b"\x96" + struct.pack("<Q", 2**40) + b"x"),
        "frame of 2^60": Raw(b"\x95" + struct.pack("<Q", 2**60) + b"N"),
        "number of 2^31 bytes": Raw(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x"),
        "number of -1 bytes": Raw(b"\x8b" + struct.pack("<i", -1)),
        "a million digits": Raw(b"I" + b"9" * 10**6 + b"\n"),
        "pop of nothing": Raw(b"0" * 50),
        "mark without end": Raw(b"(" * 100_000),
        "extension": Raw(b"\x82\x01"),
        "persistent number": Raw(b"K\x01Q"),
        "long text": "x" * 10**6,
        "a million": [0] * 10**6,
    }
    for name in ("depth", "in_stack_depth", "in_channels", "out_channels", "mult_chan", "unknown"):
        for value in (*HUGE, 1.5, float("nan"), "text", None, [], {}, (1, 2), True, "x" * 10**5, b"bytes"):
            options[f"model_config.{name} = {str(value)[:20]}"] = {"model_config": {"depth": 1, name: value}}
    options |= {f"model_config = {value!r}": {"model_config": value} for value in (None, 1, "text", [], [1], b"")}
    simple = [name for name in options if not name.startswith("model_config")]
    name = choose.choice(simple if choose.random() < 0.6 else list(options))
    value = options[name]
    return name, {"model_config": value} if isinstance(value, Raw) and choose.random() < 0.7 else value


def _change_storages(
    state: Mapping[str, np.ndarray], choose: random.Random, settings: Any, legacy: bool
) -> tuple[bytes, str]:
    key = choose.randrange(len(state))
    raw = list(state.values())[key].astype("<f4").tobytes()
    if legacy:
        count = choose.choice([*HUGE[:-1], len(raw) // 4 + 1, max(0, len(raw) // 4 - 1)])
        return write_legacy(state, counts={key: count}), f"storage {key} has the count {count}"
    how = choose.choice([*files.CONTENT, "NaN"])
    new = np.full(len(raw) // 4, np.nan, "<f4").tobytes() if how == "NaN" else files.change_content(raw, how, choose)
    return write_zip(pickled(state, settings), state, **{f"data/{key}": new}), f"valid archive, storage {key} is {how}"


def _change_container(state: Mapping[str, np.ndarray], choose: random.Random, content: bytes) -> tuple[bytes, str]:
    member = choose.choice(["data.pkl", "byteorder", "version", "data/0", "data/1", "x/data.pkl", "../../x", "/x"])
    how = choose.choice(["big", "empty", "text", "bomb", "encrypted", "method", "size", "long name", "many", "comment"])
    if how == "bomb":
        return _with_bomb(content, state, member), f"{member} unpacks to {BOMB_BYTES} bytes"
    if how in ("big", "empty", "text"):
        raw = {"big": b"big", "empty": b"", "text": b"text" * 1000}[how]
        other_numbers = "valid archive, " if member.startswith("data/") else ""
        return write_zip(content, state, **{member: raw}), f"{other_numbers}{member} holds {raw[:10]!r}"
    if how in ("long name", "many"):
        names = ["n" * 60_000] if how == "long name" else [f"extra/{n}" for n in range(20_000)]
        return write_zip(content, state, **dict.fromkeys(names, b"")), f"valid archive, {how}"
    changed = bytearray(write_zip(content, state))
    if how == "comment":
        return bytes(changed[:-2]) + b"\xff\xff" + b"c" * 10, "the archive's comment is cut"
    directory = changed.find(b"PK\x01\x02")  # the first entry: data.pkl
    for place, value in {"encrypted": [(8, b"\x01\x00")], "method": [(10, b"\x63\x00")],
                         "size": [(20, b"\xff\xff\xff\x7f"), (24, b"\xff\xff\xff\x7f")]}[how]:  # fmt: skip
        changed[directory + place : directory + place + len(value)] = value
    return bytes(changed), f"the archive's first entry: {how}"


def _with_bomb(content: bytes, state: Mapping[str, np.ndarray], member: str) -> bytes:
    file = io.BytesIO(write_zip(content, state) if member not in ("data.pkl", "byteorder", "data/0", "data/1") else b"")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if not archive.namelist():
            entries = {"data.pkl": content, "byteorder": b"little"}
            entries |= {f"data/{key}": array.astype("<f4").tobytes() for key, array in enumerate(state.values())}
            for name, raw in entries.items():
                if name != member:
                    archive.writestr(f"archive/{name}", raw)
        with archive.open(f"archive/{member}", "w") as stream:
            for _ in range(BOMB_BYTES >> 24):
                stream.write(bytes(1 << 24))
    return file.getvalue()
