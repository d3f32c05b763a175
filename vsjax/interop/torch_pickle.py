"""The pickle of a PyTorch file, interpreted here: Python's own `pickle` is never given a foreign file.

A pickle is a program for a small stack machine. This one knows tensors and plain containers; objects of the libraries
that write such files become placeholders that hold their state; any other name refuses the file. What a pickle can
take is bounded by its length: nothing is copied more often than it was written, the memo is a table, numbers have 64
bits, and keys are never hashed through shared tuples, which would take time without end.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from vsjax.errors import shorten
from vsjax.interop.torch_tensors import DTYPES, Storage, Tensor

LARGEST_PICKLE = 32 << 20  # bytes; that of ten thousand tensors has some 2 MB
MOST_OPCODES = 1_000_000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_NUMBER = 1 << 64
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
# What may be called, by the name of the method of `Machine` that does it.
_CALLABLES = {
    ("collections", "OrderedDict"): "make_dict",
    ("collections", "defaultdict"): "make_empty_dict",
    ("builtins", "dict"): "make_dict",
    ("builtins", "set"): "make_set",
    ("torch", "Size"): "make_size",
    ("torch._utils", "_rebuild_tensor"): "make_tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "make_tensor",
    ("torch._utils", "_rebuild_parameter"): "take_tensor",
    ("torch._utils", "_rebuild_parameter_with_state"): "take_tensor",
    ("_codecs", "encode"): "encode_latin1",  # how protocol 2 writes bytes
}


class RefusedError(Exception):
    """The pickle names something that is neither a tensor nor a plain container."""


class Placeholder(dict):
    """Stands for an object of another library: holds its state and items, and does nothing with them."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}


class _Name:
    """What a pickle calls or refers to: a method of the machine, a type of numbers, or nothing of use."""

    __slots__ = ("dtype", "method")

    def __init__(self, method: str | None = None, dtype: np.dtype | None = None) -> None:
        self.method, self.dtype = method, dtype


_MARK = object()
_INERT = _Name()


class Machine:
    """Interprets one pickle after the other from a stream in memory.

    Attributes:
        storages: what the tensors refer to, by key.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = len(stream.getbuffer())
        self._opcodes = 0
        self._left = self._size  # items and characters that may still be copied: each was written once
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """What the next pickle makes.

        Raises:
            ValueError: it is damaged, or needs more than its length accounts for.
            RefusedError: it names something to run.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(self._stream):
                self._opcodes += 1
                if self._opcodes > MOST_OPCODES:
                    raise ValueError(f"its pickle has more than {MOST_OPCODES} instructions")
                if opcode.name == "STOP":
                    return self._pop()
                if type(argument) is int and abs(argument) >= _LARGEST_NUMBER and argument != LEGACY_MAGIC:
                    raise ValueError("a number has more than 64 bits")
                self._step(opcode.name, argument)
        except (IndexError, KeyError) as error:  # of the stack and the memo
            raise ValueError("its pickle takes what it did not put") from error
        raise ValueError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self._stack[-1]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise ValueError(f"its pickle has the instruction {name}, which PyTorch does not write")

    # --- The instructions

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("its pickle takes what it did not put")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _put_text(self, argument: str) -> None:
        """Text of protocol 1, whose bytes come as Latin-1."""
        self._stack.append(argument.encode("latin1").decode())

    def _put_tuple(self, count: int | None) -> None:
        values = self._pop_to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._stack.append(tuple(values))

    def _put_name(self, text: str) -> None:
        self._stack.append(_find(*text.split(" ", 1)))

    def _put_stacked_name(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names something by no text")
        self._stack.append(_find(module, name))

    def _append(self, items: list[Any]) -> None:
        holder = self._stack[-1]
        if isinstance(holder, list):
            holder.extend(items)
        elif not isinstance(holder, Placeholder):
            raise ValueError("its pickle appends to what is no list")

    def _set_items(self, items: list[Any]) -> None:
        holder = self._stack[-1]
        if not isinstance(holder, dict) or len(items) % 2:
            raise ValueError("its pickle sets an item of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            holder[_hashable(key)] = value

    def _put_dict(self, _: None) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def _add_items(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], set):
            raise ValueError("its pickle adds to what is no set")
        self._stack[-1].update(map(_hashable, items))

    def _build(self, _: None) -> None:
        """The state of an object: only placeholders have one that is of use."""
        state, thing = self._pop(), self._stack[-1]
        if isinstance(thing, Placeholder):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    self._spend(len(part))
                    thing.state.update({key: value for key, value in part.items() if isinstance(key, str)})

    def _reduce(self, _: None) -> None:
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls what cannot be called")
        if callee.dtype is not None:
            raise ValueError("its pickle calls a type of numbers")
        self._stack.append(getattr(self, callee.method)(*arguments[:4]) if callee.method else Placeholder())

    def _reduce_with_keywords(self, _: None) -> None:
        self._pop()
        self._reduce(None)

    def _put_storage(self, _: None) -> None:
        identity = self._pop()
        if not isinstance(identity, tuple) or len(identity) < 5:
            raise ValueError("a reference to something other than a storage")
        kind, name, key, _location, count, *view = identity
        if kind != "storage" or not isinstance(name, _Name) or name.dtype is None or any(v is not None for v in view):
            raise ValueError("a reference to something other than a whole storage")
        if not isinstance(key, str | int):
            raise ValueError("a storage without a key")
        storage = self.storages.setdefault(str(key), Storage(name.dtype, count))
        if (storage.dtype, storage.count) != (name.dtype, count):
            raise ValueError(f"its storage {shorten(str(key))} has two lengths or types")
        self._stack.append(storage)

    # --- What a pickle may call

    def _spend(self, items: int) -> None:
        self._left -= items
        if self._left < 0:
            raise ValueError("its pickle multiplies what it holds")

    def make_dict(self, items: Any = (), *_: Any) -> dict[Any, Any]:
        """A dictionary, of pairs where there are some."""
        pairs = list(items.items()) if isinstance(items, dict) else items
        if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise ValueError("a dictionary of what are no pairs")
        self._spend(len(pairs))
        return {_hashable(key): value for key, value in pairs}

    def make_empty_dict(self, *_: Any) -> dict[Any, Any]:
        """Its default factory is left out."""
        return {}

    def make_set(self, items: Any = (), *_: Any) -> set[Any]:
        """A set of what a list holds."""
        if not isinstance(items, list | tuple):
            raise ValueError("a set of what is no list")
        self._spend(len(items))
        return set(map(_hashable, items))

    def make_size(self, sizes: Any = (), *_: Any) -> tuple[Any, ...]:
        """A tensor's shape."""
        if not isinstance(sizes, list | tuple):
            raise ValueError("a size of what is no list")
        self._spend(len(sizes))
        return tuple(sizes)

    def make_tensor(
        self, storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None, *_: Any
    ) -> Tensor:
        """A tensor; hooks, gradients and metadata are left out."""
        return Tensor(storage, offset, size, stride)

    def take_tensor(self, tensor: Any = None, *_: Any) -> Any:
        """A parameter is its tensor."""
        return tensor

    def encode_latin1(self, text: Any = None, *_: Any) -> bytes:
        """Bytes."""
        if not isinstance(text, str):
            raise ValueError("bytes of what is no text")
        self._spend(len(text))
        return text.encode("latin1")


_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "BINSTRING": Machine._put_text,
    "SHORT_BINSTRING": Machine._put_text,
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "EMPTY_SET": lambda m, _: m._stack.append(set()),
    "LIST": lambda m, _: m._stack.append(m._pop_to_mark()),
    "TUPLE": lambda m, _: m._put_tuple(None),
    "TUPLE1": lambda m, _: m._put_tuple(1),
    "TUPLE2": lambda m, _: m._put_tuple(2),
    "TUPLE3": lambda m, _: m._put_tuple(3),
    "DICT": Machine._put_dict,
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._pop_to_mark()),
    "SETITEM": lambda m, _: m._set_items([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set_items(m._pop_to_mark()),
    "ADDITEMS": lambda m, _: m._add_items(m._pop_to_mark()),
    "POP": lambda m, _: m._stack.pop() and None,
    "POP_MARK": lambda m, _: m._pop_to_mark() and None,
    "DUP": lambda m, _: m._stack.append(m._stack[-1]),
    "MEMOIZE": lambda m, _: m._memo.__setitem__(len(m._memo), m._stack[-1]),
    "GLOBAL": Machine._put_name,
    "STACK_GLOBAL": Machine._put_stacked_name,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._reduce_with_keywords,
    "BUILD": Machine._build,
    "BINPERSID": Machine._put_storage,
}


def _find(module: str, name: str) -> _Name:
    """What a name stands for; RefusedError where it is none of the known."""
    module = "builtins" if module == "__builtin__" else module
    if (module, name) in _CALLABLES:
        return _Name(_CALLABLES[module, name])
    if module in ("torch", "torch.storage"):
        short = name.removesuffix("Storage").lower()
        if name in ("UntypedStorage", "_UntypedStorage"):
            return _Name(dtype=np.dtype("u1"))
        if name in DTYPES or (name.endswith("Storage") and short in DTYPES):
            return _Name(dtype=DTYPES[short])
    if (module, name) in _INERT_NAMES or _is_inert(module):
        return _INERT
    raise RefusedError(shorten(f"{module}.{name}"))


def _is_inert(module: str) -> bool:
    return any(module.startswith(p) if p.endswith(".") else module.split(".")[0] == p for p in _INERT_PREFIXES)


def _hashable(key: Any) -> Any:
    """A key of a dictionary or set. Tuples may hold tuples that hold tuples, each the same one twice, so that a hash
    takes twice as long per level: only short and flat ones are keys."""
    parts = key if isinstance(key, tuple) and len(key) <= 8 else (key,)
    if not all(part is None or isinstance(part, str | int | float | bytes | _Name) for part in parts):
        raise ValueError("a key is neither text nor number")
    return key
