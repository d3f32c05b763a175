"""Tensors of a PyTorch file: strided views of runs of numbers, checked against their bounds when they are described."""

from collections.abc import Callable

import ml_dtypes
import numpy as np

DTYPES = {
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


class Storage:
    """A run of numbers in the file; `load` gives its bytes when it is known where they are."""

    __slots__ = ("_data", "count", "dtype", "load", "swapped")

    def __init__(self, dtype: np.dtype, count: int) -> None:
        if not isinstance(count, int) or count < 0:
            raise ValueError("a storage's length is not a count")
        self.dtype, self.count = dtype, count
        self.load: Callable[[], bytes] | None = None
        self.swapped = False
        self._data: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """The numbers, flat."""
        if self._data is None:
            if self.load is None:
                raise ValueError("a tensor's numbers are not in the file")
            raw = self.load()
            size = self.dtype.itemsize
            if len(raw) < self.count * size:
                raise ValueError(f"a storage has {len(raw)} bytes and needs {self.count * size}")
            numbers = np.frombuffer(raw, f"u{size}", self.count)
            self._data = (numbers.byteswap() if self.swapped else numbers).view(self.dtype)
        return self._data


class Tensor:
    """A strided view of a storage, checked against its bounds when it is made."""

    __slots__ = ("count", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError("a tensor is not described by storage, offset, size and strides")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or len(shape) > 32:
            raise ValueError("a tensor has other strides than sizes, or too many of them")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor's offset, size or stride is not a count")
        self.count = 1
        for size in shape:
            self.count *= size
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if self.count and (last >= storage.count or self.count > storage.count):
            raise ValueError("a tensor reaches beyond its storage, or repeats it")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def nbytes(self) -> int:
        """Of an array with the same numbers."""
        return self.count * self.storage.dtype.itemsize

    def array(self) -> np.ndarray:
        """The numbers, as a view of the storage's."""
        flat = self.storage.array()
        if not self.count:
            return np.zeros(self.shape, flat.dtype)
        steps = tuple(stride * flat.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
