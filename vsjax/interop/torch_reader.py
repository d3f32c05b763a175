"""Read PyTorch checkpoints without PyTorch and without running anything that they contain.

A `.ckpt`, `.pt` or `.pth` file is a Python pickle beside raw tensor data; `torch_pickle` interprets the pickle. Here is
what is around it: the archive, the numbers, and the settings that lie beside the tensors.
"""

import io
import os
import stat
import struct
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.interop.safetensors_reader import read_safetensors
from vsjax.interop.torch_pickle import LARGEST_PICKLE, LEGACY_MAGIC, Machine, Placeholder, RefusedError
from vsjax.interop.torch_tensors import Tensor

MOST_MEMBERS = 100_000
MOST_SETTINGS = 100_000
DEEPEST_SETTINGS = 64  # levels
_DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, struct.error)  # what zipfile raises for it


@dataclass(frozen=True)
class TorchCheckpoint:
    """What a PyTorch file holds that is of use: tensors by name, and the settings that Lightning stored beside them."""

    path: Path
    tensors: dict[str, np.ndarray]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Read a Lightning checkpoint, a plain `state_dict` (both of PyTorch's file formats) or a safetensors file.

    Raises UserError with one line for a file that is absent, truncated, no checkpoint, that names code to run, or that
    would take more memory than its size accounts for.
    """
    path = Path(path)
    _check_regular(path)
    if path.suffix == ".safetensors":
        return TorchCheckpoint(path, read_safetensors(path))
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return _select(path, _read_legacy(file))
            with zipfile.ZipFile(file) as archive:
                return _select(path, _read_zip(archive, path.stat().st_size))
    except RefusedError as error:
        raise UserError(
            f"{path}: refused, because the file wants to run code ({error}) when it is read; "
            "get the weights from someone you trust, as a state_dict or safetensors"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or fetch it again") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: not a complete PyTorch checkpoint ({shorten(reason, 300)}); it may be truncated, fetch it again"
        ) from error


def _check_regular(path: Path) -> None:
    """UserError unless the path is a file: a pipe or a device would be read for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a name with a NUL byte
        raise UserError(f"{path}: there is no such file; give a .ckpt, .pt, .pth or .safetensors file") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is no regular file; give a .ckpt, .pt, .pth or .safetensors file")


def _select(path: Path, content: Any) -> TorchCheckpoint:
    """Find the tensors in what was unpickled, and turn them into arrays; optimiser states stay unread."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint or state_dict")
    state = content
    for key in ("state_dict", "model_state_dict", "model", "teacher"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    found = {name: value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not found:
        raise UserError(f"{path}: holds no tensors under `state_dict`; give a checkpoint or state_dict of a network")
    if sum(tensor.nbytes for tensor in found.values()) > 2 * path.stat().st_size:  # twice: some share their numbers
        raise ValueError("its tensors repeat each other's numbers, and take more than the file")
    settings = content.get("hyper_parameters")
    tensors = {name: tensor.array() for name, tensor in found.items()}
    return TorchCheckpoint(path, tensors, _plain(settings) if isinstance(settings, dict) else {})


def _plain(settings: dict[Any, Any]) -> dict[Any, Any]:
    """Settings as plain Python: placeholders become their state, and tensors are left out.

    Raises:
        ValueError: they are nested too deeply, or too many: the same list may stand in itself, or in many places.
    """
    left = MOST_SETTINGS

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        if (left := left - 1) < 0 or depth > DEEPEST_SETTINGS:
            raise ValueError(
                f"its hyper_parameters are more than {MOST_SETTINGS}, or nested more than {DEEPEST_SETTINGS} levels"
            )
        if isinstance(value, Placeholder):
            value = {**value.state, **value}
        if isinstance(value, dict):
            return {key: plain(item, depth + 1) for key, item in value.items() if not isinstance(item, Tensor)}
        if isinstance(value, list | tuple | set):
            return type(value)(plain(item, depth + 1) for item in value if not isinstance(item, Tensor))
        return value

    return plain(settings, 0)


def _read_zip(archive: zipfile.ZipFile, file_size: int) -> Any:
    """The format since PyTorch 1.6: a zip archive of one pickle, and one entry for each storage, read on demand."""
    sizes = _member_sizes(archive, file_size)
    pickles = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip archive without data.pkl")
    if sizes[pickles[0]] > LARGEST_PICKLE:
        raise ValueError(f"its data.pkl has {sizes[pickles[0]]} bytes, more than {LARGEST_PICKLE}")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in sizes else b"little"
    if byteorder not in (b"little", b"big"):
        raise ValueError(f"its byteorder is {shorten(repr(byteorder[:100]))}, neither little nor big")
    machine = Machine(io.BytesIO(archive.read(pickles[0])))
    content = machine.load()
    for key, storage in machine.storages.items():
        member = f"{folder}data/{key}"
        if sizes.get(member, -1) < storage.count * storage.dtype.itemsize:
            raise ValueError(f"its storage {shorten(key)} is shorter than its tensors")
        storage.load = partial(archive.read, member)
        storage.swapped = byteorder == b"big"
    return content


def _member_sizes(archive: zipfile.ZipFile, file_size: int) -> dict[str, int]:
    """Bytes of every member. PyTorch stores members as they are: what is compressed, or larger together than the
    file, is a bomb."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"its archive has {len(members)} members, more than {MOST_MEMBERS}")
    sizes = {member.filename: member.file_size for member in members}
    if len(sizes) < len(members):
        raise ValueError("its archive has two members of one name")
    if any(m.flag_bits & 1 for m in members):
        raise ValueError("its archive is encrypted")
    if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
        raise ValueError("its archive is compressed, which PyTorch never does; save it again with torch.save")
    if sum(sizes.values()) > file_size:
        raise ValueError("its archive has members that are larger than the file")
    return sizes


def _read_legacy(file: BinaryIO) -> Any:
    """The format before PyTorch 1.6: five pickles in a row, then each storage's length and numbers."""
    file.seek(0)
    stream = io.BytesIO(file.read(LARGEST_PICKLE))
    machine = Machine(stream)
    if machine.load() != LEGACY_MAGIC:
        raise ValueError("the file does not begin as one")
    machine.load()  # the protocol's version
    about = machine.load()
    if isinstance(about, dict) and about.get("little_endian", True) is not True:
        raise ValueError("written on a big-endian machine, which is not supported in files of PyTorch before 1.6")
    content = machine.load()
    keys = machine.load()
    if not isinstance(keys, list):
        raise ValueError("the file does not list its storages")
    file.seek(stream.tell())
    left = os.fstat(file.fileno()).st_size - stream.tell()
    for key in map(str, keys):
        if (storage := machine.storages.get(key)) is None:
            raise ValueError(f"no tensor has its storage {shorten(key)}")
        size = storage.count * storage.dtype.itemsize
        count = int.from_bytes(file.read(8), "little")
        left -= 8 + size
        if count != storage.count or left < 0:
            raise ValueError(f"its storage {shorten(key)} is cut short")
        storage.load = partial(bytes, file.read(size))
    return content
