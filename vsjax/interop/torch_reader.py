"""Read PyTorch checkpoints without PyTorch and without running anything that they contain.

A `.ckpt`, `.pt` or `.pth` file is a Python pickle beside raw tensor data, and a pickle is a program: unpickling it the
ordinary way runs whatever its author chose. Here the pickle may only name tensors and plain containers; settings of the
libraries that write such files become inert placeholders; any other name refuses the file.
"""

import pickle
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vsjax.errors import UserError
from vsjax.interop.safetensors_reader import read_safetensors

_DTYPES = {
    "float64": np.dtype("<f8"),
    "double": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "half": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype("<i8"),
    "long": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "short": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "char": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "byte": np.dtype("u1"),
    "bool": np.dtype("?"),
}
# Settings, losses and optimisers of these libraries are not needed: they become placeholders that hold their state.
_INERT_PREFIXES = (
    "viscy",
    "cytoland",
    "lightning",
    "pytorch_lightning",
    "jsonargparse",
    "torch.nn.modules.",
    "torch.optim.",
)
_INERT_NAMES = {
    ("argparse", "Namespace"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PurePosixPath"),
    ("torch", "device"),
}
_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "dict"): dict,
    ("builtins", "set"): set,
    ("torch", "Size"): tuple,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class TorchCheckpoint:
    """What a PyTorch file holds that is of use: tensors by name, and the settings that Lightning stored beside them."""

    path: Path
    tensors: dict[str, np.ndarray]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Read a Lightning checkpoint, a plain `state_dict` (both of PyTorch's file formats) or a safetensors file.

    Raises UserError with one line for a file that is absent, truncated, no checkpoint, or that names code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a .ckpt, .pt, .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return TorchCheckpoint(path, read_safetensors(path))
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return _select(path, _read_legacy(file))
            with zipfile.ZipFile(file) as archive:
                return _select(path, _read_zip(archive))
    except _RefusedError as error:
        raise UserError(
            f"{path}: refused, because the file wants to run code ({error}) when it is read; "
            "get the weights from someone you trust, as a state_dict or safetensors"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever a damaged pickle or archive can raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: not a complete PyTorch checkpoint ({reason}); it may be truncated, fetch it again"
        ) from None


def _select(path: Path, content: Any) -> TorchCheckpoint:
    """Find the tensors in what was unpickled, and turn them into arrays; optimiser states stay unread."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint or state_dict")
    state = content
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    tensors = {str(name): value.array() for name, value in state.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors under `state_dict`; give a checkpoint or state_dict of a network")
    settings = content.get("hyper_parameters")
    return TorchCheckpoint(path, tensors, _plain(settings) if isinstance(settings, dict) else {})


def _plain(value: Any) -> Any:
    """Settings as plain Python: placeholders become their state, and tensors are left out."""
    if isinstance(value, _Placeholder):
        return _plain({**value.state, **value})
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, _Tensor)}
    if isinstance(value, list | tuple | set):
        return type(value)(_plain(item) for item in value if not isinstance(item, _Tensor))
    return value


class _RefusedError(Exception):
    """The pickle names something that is neither a tensor nor a plain container."""


class _Storage:
    """A run of numbers in the file; `data` is filled when it is known."""

    __slots__ = ("count", "data", "dtype", "load")

    def __init__(self, dtype: np.dtype, count: int) -> None:
        if not isinstance(count, int) or count < 0:
            raise ValueError("a storage's length is not a count")
        self.dtype, self.count = dtype, count
        self.data: np.ndarray | None = None
        self.load = None

    def array(self) -> np.ndarray:
        if self.data is None:
            raw = self.load()
            if len(raw) < self.count * self.dtype.itemsize:
                raise ValueError(f"a storage has {len(raw)} bytes and needs {self.count * self.dtype.itemsize}")
            self.data = np.frombuffer(raw, self.dtype, self.count)
        return self.data


class _Tensor:
    """A strided view of a storage, checked against its bounds when it is made."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise ValueError("a tensor is not described by storage, offset, size and strides")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("a tensor's offset, size or stride is not a count")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError("a tensor reaches beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        flat = self.storage.array()
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        steps = tuple(stride * flat.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)


class _Placeholder(dict):
    """Stands for an object of another library: takes its state and items, and does nothing with them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Placeholder":
        placeholder = super().__new__(cls)
        placeholder.state = {}
        return placeholder

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {str(key): value for part in parts if isinstance(part, dict) for key, value in part.items()}

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


# What a pickle may call. Instances without attributes, so that the pickle cannot alter them for later files.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor


class _EncodeLatin1:
    """How protocol 2 writes bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        return text.encode("latin1")


class _MakeDefaultDict:
    __slots__ = ()

    def __call__(self, *_: Any) -> defaultdict:
        return defaultdict()


_CALLABLES = {
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("_codecs", "encode"): _EncodeLatin1(),
    ("collections", "defaultdict"): _MakeDefaultDict(),
}


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


class _Unpickler(pickle.Unpickler):
    """Knows tensors, plain containers and placeholders; refuses every other name."""

    def __init__(self, file: BinaryIO, open_storage: Any = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._open_storage = open_storage
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        known = _PLAIN.get((module, name)) or _CALLABLES.get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.storage"):
            short = name.removesuffix("Storage").lower()
            if name in ("UntypedStorage", "_UntypedStorage"):
                return _StorageType(np.dtype("u1"))
            if name in _DTYPES or (name.endswith("Storage") and short in _DTYPES):
                return _StorageType(_DTYPES[short])
        if (module, name) in _INERT_NAMES or _is_inert(module):
            # A fresh class each time: nothing that the pickle does to it outlives this file.
            return type("Placeholder", (_Placeholder,), {})
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, count, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise ValueError("a reference to something other than a whole storage")
        key = str(key)
        if key not in self.storages:
            self.storages[key] = _Storage(storage_type.dtype, count)
            if self._open_storage is not None:
                self.storages[key].load = lambda: self._open_storage(key)
        return self.storages[key]


def _is_inert(module: str) -> bool:
    return any(module.startswith(p) if p.endswith(".") else module.split(".")[0] == p for p in _INERT_PREFIXES)


def _read_zip(archive: zipfile.ZipFile) -> Any:
    """The format since PyTorch 1.6: a zip archive of one pickle, and one entry for each storage, read on demand."""
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    pickles = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip archive without data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in sizes and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("written on a big-endian machine, which is not supported")
    with archive.open(pickles[0]) as stream:
        reader = _Unpickler(stream, lambda key: archive.read(f"{folder}data/{key}"))
        content = reader.load()
    for key, storage in reader.storages.items():
        if sizes.get(f"{folder}data/{key}", -1) < storage.count * storage.dtype.itemsize:
            raise ValueError(f"its storage {key} is shorter than its tensors")
    return content


def _read_legacy(file: BinaryIO) -> Any:
    """The format before PyTorch 1.6: five pickles in a row, then each storage's length and numbers."""
    file.seek(0)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("the file does not begin as one")
    for _ in ("protocol version", "about the system"):
        _Unpickler(file).load()
    reader = _Unpickler(file)
    content = reader.load()
    for key in _Unpickler(file).load():
        storage = reader.storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(count * storage.dtype.itemsize) if count == storage.count else b""
        if count != storage.count or len(raw) < count * storage.dtype.itemsize:
            raise ValueError(f"its storage {key} is cut short")
        storage.data = np.frombuffer(raw, storage.dtype)
    return content
