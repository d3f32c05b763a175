"""Intensity statistics of a plate, in the attribute layout of VisCy, so that a plate prepared by either serves both.

Per channel, under the attribute `normalization`: on the plate `dataset_statistics` and `timepoint_statistics` (over all
positions), on each position these and `fov_statistics`. They are of the pixels on a grid in Y and X (every 32nd, from
the first), all slices, all time points. NaN count as missing.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts

from vsjax.errors import UserError
from vsjax.intensity.distribution import Distribution
from vsjax.plates.arrays import read
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate

ATTRIBUTE = "normalization"
LEVELS = {"dataset": "dataset_statistics", "fov": "fov_statistics", "timepoint": "timepoint_statistics"}

_TABLES = 128  # distributions of time points kept at once: at most 4 MB each
_A = TypeVar("_A")
_B = TypeVar("_B")

Statistics = dict[str, float]


def compute_statistics(image: np.ndarray, grid: int = 1) -> Statistics:
    """The statistics of an array [..., Y, X], of every `grid`-th pixel in Y and X, from the first.

    min, max, mean, std (population), median, iqr, p5, p95, p95_p5, p1, p99, p99_p1, as VisCy defines them; NaN count
    as missing. Raises ValueError if nothing but NaN is there, or for infinite values.
    """
    image = np.asarray(image)
    return Distribution.of(image[..., ::grid, ::grid] if grid != 1 else image).statistics()


def read_statistics(position: Position, channel: str | int, level: str, time: int = 0) -> Statistics:
    """A channel's statistics as they stand in the position's attributes.

    Args:
        position: of a plate.
        channel: name or index.
        level: "dataset", "fov" or "timepoint".
        time: the time point, for "timepoint".

    Raises UserError that names the command that makes them where they are missing.
    """
    name = position.channel_names[position.channel_index(channel)]
    found = position.attributes
    for key in (ATTRIBUTE, name, LEVELS[level], *([str(time)] if level == "timepoint" else [])):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise UserError(
            f"{position.where}: {ATTRIBUTE}: there are no {level} statistics of channel {name!r}; "
            f"run python -m vsjax.preprocess --plate {position.plate_url}"
        )
    return found


def write_statistics(
    plate: Plate,
    channels: Sequence[str | int] | None = None,
    grid: int = 32,
    workers: int = 8,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> dict[str, Statistics]:
    """Compute the statistics of a plate and write them into its attributes; return the dataset's, by channel name.

    Pixels stream through: memory does not grow with the plate. A second run writes nothing unless something changed;
    other attributes and other channels' statistics stay. Interrupted, run it again: what is missing is written.

    Args:
        plate: the plate or single image, writable.
        channels: names or indices; all by default.
        grid: distance of the sampled pixels in Y and X.
        workers: reads under way at once.
        progress: wraps the iterable over positions, called with `total` and `desc`, such as `tqdm.tqdm`.

    Raises UserError for a channel that a position lacks, a channel that is NaN throughout a position or time point,
    infinite values, or a chunk that cannot be read.
    """
    if grid < 1:
        raise UserError(f"{plate.url}: grid: {grid} is not a distance in pixels; give 1 or more")
    progress = progress or (lambda items, **_: items)
    names, total = _check_channels(plate, channels)
    with ThreadPoolExecutor(workers) as pool:
        dataset, times = _scan(
            plate, names, grid, workers, pool, lambda items: progress(items, total=total, desc="sampling")
        )
    shared = {name: {"dataset_statistics": dataset[name], "timepoint_statistics": times[name]} for name in names}
    for position in progress(plate.positions(), total=total, desc="writing"):
        _write(position, shared)
    if plate.is_hcs:  # a single image is its own position
        _write(plate, shared)  # last, so that a plate that has them is a plate whose positions have them
    return dataset


def _check_channels(plate: Plate, channels: Sequence[str | int] | None) -> tuple[list[str], int]:
    """The channels' names, which every position must have, and the number of positions; nothing is written yet."""
    names: list[str] | None = None
    total = 0
    for position in plate.positions():
        if names is None:
            wanted = position.channel_names if channels is None else channels
            names = list(dict.fromkeys(position.channel_names[position.channel_index(c)] for c in wanted))
        for name in names:
            position.channel_index(name)
        total += 1
    if not names:
        raise UserError(f"{plate.url}: has no positions; write images into it first")
    return names, total


def _scan(
    plate: Plate,
    names: Sequence[str],
    grid: int,
    workers: int,
    pool: ThreadPoolExecutor,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> tuple[dict[str, Statistics], dict[str, dict[str, Statistics]]]:
    """Read the grid of every position, write the positions' own statistics, return the dataset's and the time points'.

    Reads everything once. Only where there are more time points than `_TABLES` allows is each of the later ones read
    a second time, so that memory stays bounded.
    """
    window = max(1, _TABLES // len(names))
    dataset = {name: Distribution() for name in names}
    times: dict[str, dict[str, Statistics]] = {name: {} for name in names}
    start, end = 0, 1
    while start < end:
        tables = {name: [Distribution() for _ in range(window)] for name in names}
        wanted = None if start == 0 else range(start, start + window)
        for position, samples in progress(_positions(plate, names, grid, wanted, workers, pool)):
            end = max(end, position.shape[0])
            own = {name: Distribution() for name in names}
            for time, distributions in samples:
                for name, distribution in zip(names, distributions, strict=True):
                    own[name].merge(distribution)
                    if start == 0:
                        dataset[name].merge(distribution)
                    if start <= time < start + window:
                        tables[name][time - start].merge(distribution)
            if start == 0:
                where = position.url
                _write(position, {n: {"fov_statistics": _finished(own[n], where, n)} for n in names})
        for name in names:
            for time in range(start, min(end, start + window)):
                table = tables[name][time - start]
                times[name][str(time)] = _finished(table, f"{plate.url}: time point {time}", name)
        start += window
    return {name: _finished(dataset[name], plate.url, name) for name in names}, times


def _finished(distribution: Distribution, where: str, channel: str) -> Statistics:
    if not distribution.count:
        raise UserError(
            f"{where}: channel {channel!r} is NaN in every sampled pixel; remove the image or repair the channel"
        )
    return distribution.statistics()


def _positions(
    plate: Plate,
    names: Sequence[str],
    grid: int,
    wanted: range | None,
    workers: int,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Position, Iterator[tuple[int, list[Distribution]]]]]:
    """Each position with an iterator over its time points' distributions per channel, read `workers` at a time."""

    def open_position(position: Position) -> tuple[Position, list[int]]:
        return position, [position.channel_index(name) for name in names]

    def read_time(unit: tuple[Position, list[int], int]) -> tuple[Position, int, list[Distribution]]:
        position, indices, time = unit
        return position, time, _sample(position, time, indices, names, grid)

    units = (
        (position, indices, time)
        for position, indices in _in_pool(pool, open_position, plate.positions(), workers)
        for time in range(position.shape[0])
        if wanted is None or time in wanted
    )
    for _, group in itertools.groupby(_in_pool(pool, read_time, units, workers), key=lambda unit: unit[0].name):
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
    old = node.attributes.get(ATTRIBUTE)
    old = old if isinstance(old, dict) else {}
    new = dict(old)
    for channel, parts in statistics.items():
        before = old.get(channel)
        new[channel] = {**(before if isinstance(before, dict) else {}), **parts}
    if new != old:
        node.write_attribute(ATTRIBUTE, new)
