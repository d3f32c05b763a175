"""Moments and quantiles of a stream of numbers, in memory that does not grow with it."""

import base64

import numpy as np
import pydantic

from vsjax.plates.statistics_attribute import LARGEST_VALUE
from vsjax.schema import Document

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
MAX_DISTINCT = 1 << 18


class DistributionRecord(Document):
    """A distribution as processes leave it for each other: all fields are 0 or empty where it is."""

    count: pydantic.NonNegativeInt = 0
    minimum: float = 0.0
    maximum: float = 0.0
    origin: float = 0.0
    offset: float = 0.0
    squares: pydantic.NonNegativeFloat = 0.0
    dropped_bits: int = pydantic.Field(default=0, ge=0, le=63)
    keys: str = pydantic.Field(default="", description="base64 of 64-bit numbers, sorted")
    counts: str = pydantic.Field(default="", description="base64 of 64-bit numbers, as many")

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "DistributionRecord":
        keys, counts = _to_array(self.keys, "<u8"), _to_array(self.counts, "<i8")
        if len(keys) != len(counts) or (counts < 1).any() or int(counts.sum()) != self.count:
            raise ValueError("keys and counts must go together and add up to count")
        return self


class Distribution:
    """Count, minimum, maximum, mean, standard deviation and quantiles of all the numbers that were added.

    It keeps the distinct values and how often each occurred. Up to `max_distinct` of them (always, for integers of 8
    and 16 bits) the quantiles are exactly NumPy's. Beyond that, the last bits of the numbers are dropped, as few as
    will do: quantiles then err by a few 1e-5 of their value. The other statistics are exact (to rounding) always.
    The result does not depend on the order in which numbers are added, but for rounding in the moments.
    """

    def __init__(self, max_distinct: int | None = None) -> None:
        self.count = 0
        self.minimum = np.inf
        self.maximum = -np.inf
        self._origin = 0.0  # one of the numbers: what they have in common does not round their mean
        self._offset = 0.0  # of the mean from it
        self._squares = 0.0  # sum of squared distances to the mean
        self._max_distinct = MAX_DISTINCT if max_distinct is None else max_distinct
        self._dropped_bits = 0
        self._keys = np.empty(0, np.uint64)  # sorted
        self._counts = np.empty(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    @classmethod
    def of(cls, values: np.ndarray, max_distinct: int | None = None) -> "Distribution":
        """The distribution of an array of real numbers of any type and shape; NaN count as missing.

        Raises ValueError for infinite values, and for those that float32 cannot hold.
        """
        new = cls(max_distinct)
        distinct, counts = np.unique(np.asarray(values).reshape(-1), return_counts=True)
        if np.issubdtype(distinct.dtype, np.floating):
            keep = ~np.isnan(distinct)
            distinct, counts = distinct[keep], counts[keep]
            if not np.isfinite(distinct).all():
                raise ValueError("infinite values")
            if len(distinct) and max(-float(distinct[0]), float(distinct[-1])) > LARGEST_VALUE:
                raise ValueError(f"values beyond {LARGEST_VALUE:g}")
        if not len(distinct):
            return new
        numbers = distinct.astype(np.float64)
        new.count = int(counts.sum())
        new.minimum, new.maximum = float(numbers[0]), float(numbers[-1])
        offsets = numbers - numbers[0]  # so that a constant has exactly its own mean, and no deviation
        new._origin, new._offset = new.minimum, float(offsets @ counts) / new.count
        new._squares = float(np.square(offsets - new._offset) @ counts)
        new._keys, new._counts = _keys_of(numbers), counts.astype(np.int64)
        new._shorten()
        return new

    def record(self) -> DistributionRecord:
        """All that `of_record` needs to make the same distribution, exactly."""
        if not self.count:
            return DistributionRecord()
        self._consolidate()
        return DistributionRecord(
            count=self.count,
            minimum=self.minimum,
            maximum=self.maximum,
            origin=self._origin,
            offset=self._offset,
            squares=self._squares,
            dropped_bits=self._dropped_bits,
            keys=_to_text(self._keys, "<u8"),
            counts=_to_text(self._counts, "<i8"),
        )

    @classmethod
    def of_record(cls, record: DistributionRecord, max_distinct: int | None = None) -> "Distribution":
        """What `record` was called on."""
        new = cls(max_distinct)
        if not record.count:
            return new
        new.count, new.minimum, new.maximum = record.count, record.minimum, record.maximum
        new._origin, new._offset, new._squares = record.origin, record.offset, record.squares
        new._dropped_bits = record.dropped_bits
        new._keys, new._counts = _to_array(record.keys, "<u8"), _to_array(record.counts, "<i8")
        return new

    def merge(self, other: "Distribution") -> None:
        """Add all the numbers of another distribution to this one."""
        if not other.count:
            return
        other._consolidate()
        if not self.count:
            self._origin = other._origin
        total = self.count + other.count
        distance = (other._origin - self._origin) + (other._offset - self._offset)
        self._squares += other._squares + distance**2 * self.count * other.count / total
        self._offset += distance * other.count / total
        self.count = total
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._drop(max(0, other._dropped_bits - self._dropped_bits))
        self._pending.append((other._keys >> np.uint64(self._dropped_bits - other._dropped_bits), other._counts))
        if sum(len(keys) for keys, _ in self._pending) > self._max_distinct:
            self._consolidate()

    def percentiles(self, percents: tuple[float, ...] = PERCENTILES) -> list[float]:
        """NumPy's "linear" percentiles. ValueError if nothing was added."""
        if not self.count:
            raise ValueError("no values")
        self._consolidate()
        upto = np.cumsum(self._counts)
        result = []
        for percent in percents:
            rank = percent / 100 * (self.count - 1)
            below = int(rank)
            ranks = np.array([below, min(below + 1, self.count - 1)])
            low, high = np.clip(self._values_at(ranks, upto), self.minimum, self.maximum)
            part = rank - below
            result.append(float(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)))
        return result

    def statistics(self) -> dict[str, float]:
        """VisCy's statistics: min, max, mean, std (population), median, iqr, p5, p95, p95_p5, p1, p99, p99_p1.

        Raises ValueError if nothing was added.
        """
        p1, p5, p25, p50, p75, p95, p99 = self.percentiles(PERCENTILES)
        return {
            "min": self.minimum,
            "max": self.maximum,
            "mean": self._origin + self._offset,
            "std": float(np.sqrt(self._squares / self.count)),
            "median": p50,
            "iqr": p75 - p25,
            "p5": p5,
            "p95": p95,
            "p95_p5": p95 - p5,
            "p1": p1,
            "p99": p99,
            "p99_p1": p99 - p1,
        }

    def _values_at(self, ranks: np.ndarray, upto: np.ndarray) -> np.ndarray:
        """The numbers of these ranks. Where bits were dropped, those that share a key count as spread evenly."""
        index = np.searchsorted(upto, ranks, side="right")
        fraction = (ranks - upto[index] + self._counts[index] + 0.5) / self._counts[index]
        rest = (fraction * ((1 << self._dropped_bits) - 1)).astype(np.uint64)
        return _numbers_of((self._keys[index] << np.uint64(self._dropped_bits)) + rest)

    def _consolidate(self) -> None:
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._pending)])
        self._pending = []
        order = np.argsort(keys, kind="stable")
        self._keys, self._counts = _merge_equal(keys[order], counts[order])
        self._shorten()

    def _shorten(self) -> None:
        while len(self._keys) > self._max_distinct:
            self._drop(1)

    def _drop(self, bits: int) -> None:
        if not bits:
            return
        shift = np.uint64(bits)
        self._dropped_bits += bits
        self._keys, self._counts = _merge_equal(self._keys >> shift, self._counts)
        self._pending = [(keys >> shift, counts) for keys, counts in self._pending]


def _merge_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys without repetition, and the sum of each one's counts."""
    if not len(keys):
        return keys, counts
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts, starts)


def _to_text(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def _to_array(text: str, dtype: str) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    return array.astype(array.dtype.newbyteorder("="))


_SIGN = np.uint64(1 << 63)


def _keys_of(numbers: np.ndarray) -> np.ndarray:
    """The bits of float64 numbers as unsigned integers that sort like the numbers."""
    bits = (numbers + 0.0).view(np.uint64)  # + 0.0 makes -0.0 the same as 0.0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _numbers_of(keys: np.ndarray) -> np.ndarray:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)
