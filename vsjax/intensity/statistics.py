"""Intensity statistics of a plate, in the attribute layout of VisCy, so that a plate prepared by either serves both.

Per channel (`plates.statistics_attribute`): on the plate those of the dataset and of each time point (over all
positions), on each position these and its own. They are of the pixels on a grid in Y and X (every 32nd, from the
first), all slices, all time points. NaN count as missing.
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts
from pydantic import Field

from vsjax.errors import UserError
from vsjax.intensity.distribution import Distribution, DistributionRecord
from vsjax.plates.arrays import read
from vsjax.plates.parts import Parts
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate
from vsjax.plates.statistics_attribute import STATISTICS_ATTRIBUTE, Statistics, with_statistics
from vsjax.plates.storage import Store
from vsjax.schema import Document, Names

_TABLES = 128  # distributions of time points kept at once: at most 4 MB each
_A = TypeVar("_A")
_B = TypeVar("_B")
_Distributions = dict[str, Distribution]  # by channel


class StatisticsSettings(Document):
    """Settings of `write_statistics`, and `config.statistics` of a config for `vsjax.preprocess`."""

    channels: Names | None = Field(None, description="names of channels; all where left out")
    grid: int = Field(32, ge=1, le=2**15, description="pixels from one sampled pixel to the next in Y and X")
    workers: int = Field(8, ge=1, le=256, description="reads under way at once; more wait for the same disk")


class TimePart(Document):
    """What a process leaves of a time point: by channel."""

    channels: dict[str, DistributionRecord]


class PlatePart(TimePart):
    """What it leaves of all its pixels."""

    times: int = Field(ge=0, description="how many time points its positions have")
    positions: str = Field(description="stands for their names and shapes")


def compute_statistics(image: np.ndarray, grid: int = 1) -> Statistics:
    """The statistics of an array [..., Y, X], of every `grid`-th pixel in Y and X, from the first.

    min, max, mean, std (population), median, iqr, p5, p95, p95_p5, p1, p99, p99_p1, as VisCy defines them; NaN count
    as missing. Raises ValueError if nothing but NaN is there, or for infinite values.
    """
    image = np.asarray(image)
    return Distribution.of(image[..., ::grid, ::grid] if grid != 1 else image).statistics()


def write_statistics(
    plate: Plate,
    channels: Sequence[str | int] | None = None,
    grid: int = 32,
    workers: int = 8,
    progress: Callable[..., Iterable[Any]] | None = None,
    process: int = 0,
    processes: int = 1,
) -> dict[str, Statistics] | None:
    """Compute the statistics of a plate and write them into its attributes; return the dataset's, by channel name.

    Pixels stream through: memory does not grow with the plate. A second run writes nothing unless something changed;
    other attributes and other channels' statistics stay. Interrupted, run it again: what is missing is written.

    Several processes need not talk: each samples its positions, writes these positions' own statistics and leaves its
    distributions in the plate's folder `.vsjax`; whoever finds all of them there writes the others. The pixels must not
    change before that; a process that was killed is started again with the same numbers. Whoever finishes, alone or as
    the last one, deletes what all have left.

    Args:
        plate: the plate or single image, writable.
        channels: names, or names and indices in the first position; by default all of that. Only where all are names is
            no position read but this process's own.
        grid: distance of the sampled pixels in Y and X.
        workers: reads under way at once.
        progress: wraps the iterable over positions, called with `total` and `desc`, such as `tqdm.tqdm`.
        process, processes: this one samples every `processes`-th position.

    Returns:
        None where other processes have not finished: the last one writes the dataset's and time points'.

    Raises UserError for a channel that a position lacks, a channel that is NaN throughout a position or time point,
    infinite values, or a chunk that cannot be read.
    """
    if grid < 1:
        raise UserError(f"{plate.url}: grid: {grid} is not a distance in pixels; give 1 or more")
    progress = progress or (lambda items, **_: items)
    parts = Parts(Store(plate.url), PlatePart, "statistics", process, processes)
    if processes > 1:
        parts.withdraw()  # the pixels may have changed since an earlier run left it
    names, total, digest = _check_channels(plate, channels, process, processes)
    scan = _Scan(plate, names, grid, workers, process, processes)
    shown = partial(progress, total=total, desc="sampling")
    if processes == 1:
        times: dict[int, dict[str, Statistics]] = {}
        pooled = scan.run(shown, lambda time, table: times.update({time: _finished(plate, table, time)}))
        dataset = _finished(plate, pooled)
    else:
        exchange = _Exchange(Store(plate.url), names, grid, process, processes)
        exchange.leave(scan.run(shown, exchange.leave_time), digest)
        joined = exchange.join(plate, workers)
        if joined is None:
            return None
        dataset, times = joined
    _write_shared(plate, dataset, times, partial(progress, total=None if processes > 1 else total, desc="writing"))
    parts.clear()
    return dataset


def _check_channels(
    plate: Plate, channels: Sequence[str | int] | None, process: int, processes: int
) -> tuple[list[str], int, str]:
    """The channels' names, which every position of this process must have, how many positions these are and what
    stands for their names and shapes; nothing is written yet."""
    plate.first_position()
    if channels is None or not all(isinstance(channel, str) for channel in channels):
        first = plate.first_position()
        wanted = first.channel_names if channels is None else channels
        channels = [first.channel_names[first.channel_index(channel)] for channel in wanted]
    names = list(dict.fromkeys(channels))
    total, digest = 0, hashlib.sha256()
    for position in plate.positions(process, processes):
        for name in names:
            position.channel_index(name)
        digest.update(_name_and_shape(position))
        total += 1
    return names, total, digest.hexdigest()


def _name_and_shape(position: Position) -> bytes:
    return json.dumps([position.name, position.shape]).encode()


def _write_shared(
    plate: Plate,
    dataset: dict[str, Statistics],
    times: dict[int, dict[str, Statistics]],
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    """Write the dataset's and the time points' statistics into every position, then into the plate: one that has them
    is one whose positions have them."""
    by_time = {name: {str(time): times[time][name] for time in sorted(times)} for name in dataset}
    shared = {name: {"dataset": dataset[name], "timepoint": by_time[name]} for name in dataset}
    for position in progress(plate.positions()):
        _write(position, shared)
    if plate.is_hcs:  # a single image is its own position
        _write(plate, shared)


def _finished(plate: Plate, distributions: _Distributions, time: int | None = None) -> dict[str, Statistics]:
    where = plate.url if time is None else f"{plate.url}: time point {time}"
    return {name: _statistics(distribution, where, name) for name, distribution in distributions.items()}


def _statistics(distribution: Distribution, where: str, channel: str) -> Statistics:
    if not distribution.count:
        raise UserError(
            f"{where}: channel {channel!r} is NaN in every sampled pixel; remove the image or repair the channel"
        )
    return distribution.statistics()


class _Exchange:
    """What the processes leave for each other: a part per time point, and when these are there, one of the dataset."""

    def __init__(self, store: Store, names: Sequence[str], grid: int, process: int, processes: int) -> None:
        self._store, self._process, self._processes = store, process, processes
        self._names = list(names)
        self._identity = {"channels": self._names, "grid": grid}
        self._times = 0

    def leave_time(self, time: int, table: _Distributions) -> None:
        """Leave this process's distributions of a time point."""
        self._time_parts(time).write(TimePart(channels=_records(table)))
        self._times = max(self._times, time + 1)

    def leave(self, pooled: _Distributions, digest: str) -> None:
        """Leave those of all its pixels, which says that all are there; `digest` stands for its positions."""
        self._plate_parts().write(PlatePart(times=self._times, positions=digest, channels=_records(pooled)))

    def join(self, plate: Plate, workers: int) -> tuple[dict[str, Statistics], dict[int, dict[str, Statistics]]] | None:
        """The dataset's and the time points' statistics of all processes; None where one has not finished or had other
        positions, or another one has joined them already."""
        parts = self._plate_parts().gather()
        if parts is None or [part.positions for part in parts] != self._digests(plate, workers):
            return None
        dataset = _finished(plate, self._merge(parts))
        times = {}
        for time in range(max(part.times for part in parts)):
            having = [number for number, part in enumerate(parts) if time < part.times]
            tables = self._time_parts(time).gather(having)
            if tables is None:
                return None
            times[time] = _finished(plate, self._merge(tables), time)
        return dataset, times

    def _digests(self, plate: Plate, workers: int) -> list[str]:
        """What stands for the positions of each process, as the plate is now."""
        digests = [hashlib.sha256() for _ in range(self._processes)]
        with ThreadPoolExecutor(workers) as pool:
            for number, found in enumerate(_in_pool(pool, _name_and_shape, plate.positions(), workers)):
                digests[number % self._processes].update(found)
        return [digest.hexdigest() for digest in digests]

    def _plate_parts(self) -> Parts[PlatePart]:
        return Parts(self._store, PlatePart, "statistics", self._process, self._processes, self._identity)

    def _time_parts(self, time: int) -> Parts[TimePart]:
        name = f"statistics/time_{time}"
        return Parts(self._store, TimePart, name, self._process, self._processes, self._identity)

    def _merge(self, parts: Iterable[TimePart]) -> _Distributions:
        merged = {name: Distribution() for name in self._names}
        for part in parts:
            if set(part.channels) != set(merged):
                raise UserError(
                    f"{self._store.url}: .vsjax/statistics: a part is of the channels {', '.join(part.channels)}, not "
                    f"{', '.join(merged)}; remove this folder and start all processes again"
                )
            for name, record in part.channels.items():
                merged[name].merge(Distribution.of_record(record))
        return merged


def _records(table: _Distributions) -> dict[str, DistributionRecord]:
    return {name: distribution.record() for name, distribution in table.items()}


@dataclass(frozen=True)
class _Scan:
    """Reading the grid of every position of one process."""

    plate: Plate
    names: Sequence[str]
    grid: int
    workers: int
    process: int
    processes: int

    def run(
        self, progress: Callable[[Iterable[Any]], Iterable[Any]], keep: Callable[[int, _Distributions], None]
    ) -> _Distributions:
        """Write the positions' own statistics, hand each time point's distributions to `keep`, return the dataset's.

        Reads everything once. Only where there are more time points than `_TABLES` allows is each of the later ones
        read a second time, so that memory stays bounded.
        """
        window = max(1, _TABLES // len(self.names))
        dataset = self._empty()
        start, end = 0, 1
        with ThreadPoolExecutor(self.workers) as pool:
            while start < end:
                tables = [self._empty() for _ in range(window)]
                seen = self._fill(tables, start, dataset, progress, pool)
                end = seen if start == 0 else end
                for time in range(start, min(end, start + window)):
                    keep(time, tables[time - start])
                start += window
        return dataset

    def _fill(
        self,
        tables: list[_Distributions],
        start: int,
        dataset: _Distributions,
        progress: Callable[[Iterable[Any]], Iterable[Any]],
        pool: ThreadPoolExecutor,
    ) -> int:
        """Sample the time points from `start` on that `tables` are for; the first time all of them, for the dataset and
        the positions' own statistics. Returns how many there are."""
        times = 0
        wanted = None if start == 0 else range(start, start + len(tables))
        for position, samples in progress(self._positions(wanted, pool)):
            times = max(times, position.shape[0])
            own = self._empty()
            for time, distributions in samples:
                for name, distribution in zip(self.names, distributions, strict=True):
                    own[name].merge(distribution)
                    if start == 0:
                        dataset[name].merge(distribution)
                    if start <= time < start + len(tables):
                        tables[time - start][name].merge(distribution)
            if start == 0:
                _write(position, {name: {"fov": _statistics(own[name], position.url, name)} for name in self.names})
        return times

    def _empty(self) -> _Distributions:
        return {name: Distribution() for name in self.names}

    def _positions(
        self, wanted: range | None, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Position, Iterator[tuple[int, list[Distribution]]]]]:
        """Each position with an iterator over its time points' distributions per channel, `workers` of them at a
        time."""

        def open_position(position: Position) -> tuple[Position, list[int]]:
            return position, [position.channel_index(name) for name in self.names]

        def read_time(unit: tuple[Position, list[int], int]) -> tuple[Position, int, list[Distribution]]:
            position, indices, time = unit
            return position, time, _sample(position, time, indices, self.names, self.grid)

        mine = self.plate.positions(self.process, self.processes)
        units = (
            (position, indices, time)
            for position, indices in _in_pool(pool, open_position, mine, self.workers)
            for time in range(position.shape[0])
            if wanted is None or time in wanted
        )
        groups = itertools.groupby(_in_pool(pool, read_time, units, self.workers), key=lambda unit: unit[0].name)
        for _, group in groups:
            first = next(group)
            yield first[0], ((time, distributions) for _, time, distributions in itertools.chain([first], group))


def _sample(
    position: Position, time: int, indices: Sequence[int], names: Sequence[str], grid: int
) -> list[Distribution]:
    array = position.array()
    with ts.Batch() as batch:
        futures = [array[time, index, :, ::grid, ::grid].read(batch=batch) for index in indices]
    distributions = []
    for name, future in zip(names, futures, strict=True):
        try:
            distributions.append(Distribution.of(read(future, position.url)))
        except ValueError as error:
            raise UserError(
                f"{position.url}: channel {name!r} holds {error}; replace them by NaN or numbers"
            ) from error
    return distributions


def _in_pool(pool: ThreadPoolExecutor, function: Callable[[_A], _B], items: Iterable[_A], ahead: int) -> Iterator[_B]:
    """`map`, with at most `ahead` calls under way and in the order of `items`."""
    iterator = iter(items)
    queue: deque[Future[_B]] = deque(pool.submit(function, item) for item in itertools.islice(iterator, ahead))
    while queue:
        yield queue.popleft().result()
        queue.extend(pool.submit(function, item) for item in itertools.islice(iterator, 1))


def _write(node: Position | Plate, statistics: dict[str, dict[str, Any]]) -> None:
    """Put statistics into a node's attribute; what else is there stays. Writes nothing if nothing changes."""
    old = node.attributes.get(STATISTICS_ATTRIBUTE)
    new = with_statistics(old, statistics)
    if new != old:
        node.write_attribute(STATISTICS_ATTRIBUTE, new)
