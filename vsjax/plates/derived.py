"""Making a plate from a plate by a step: reading, computing and writing at the same time, resumed where it stopped.

Whole positions are made one after the other, and within a position its time points in order. So what a position's
pixels are does not depend on where a run was interrupted, nor on which positions another process takes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates.arrays import read
from vsjax.plates.derived_plate import DerivedImage, DerivedPlate, find_output, join_output, start_output
from vsjax.plates.derived_record import REMEDY, new_record
from vsjax.plates.listener import Listener
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate, open_plate
from vsjax.plates.step import Derived, ImageInfo, Job, Result, Step, further_attributes, without_statistics
from vsjax.plates.storage import check_apart, resolve

_AT_ONCE = 2  # stacks that are computed: the host prepares or finishes one while the other is on the device
_READS_AHEAD = 1  # stacks that are being read meanwhile
_WRITES_BEHIND = 1  # stacks that are being written meanwhile


@dataclass(frozen=True)
class PlateSummary:
    """What `make_plate` did.

    Attributes:
        made: positions that this process made, wholly or their rest.
        finished_before: those of its positions that were finished before.
        complete: whether the whole output is, by all processes.
    """

    made: int
    finished_before: int
    complete: bool


@dataclass(frozen=True)
class PositionNames:
    """The names to go through: the given ones, each once, or all of a plate's. They are read anew each time they are
    iterated: a plate may have a million."""

    source: Plate
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """UserError where there are none."""
        if next(iter(self), None) is None:
            raise UserError(f"{self.source.url}: has no positions; write images into it first")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self.given)) if self.given else self.source.iter_position_names()


def share(names: PositionNames, process: int, processes: int) -> Iterator[Position]:
    """Those positions that are this process's: every `processes`-th.

    Raises:
        UserError: one of the given positions does not exist, whoever it falls to.
    """
    if not names.given:
        return names.source.positions(process, processes)
    found = [names.source[name] for name in names]
    return islice(found, process, None, processes)


def make_plate(
    step: Step,
    input_url: str | Path,
    output_url: str | Path,
    *,
    positions: Sequence[str] | None = None,
    ngff_version: str | None = None,
    overwrite: bool = False,
    skip_complete: bool = False,
    process: int = 0,
    processes: int = 1,
    listener: Listener | None = None,
) -> PlateSummary:
    """Apply a step to every time point of every position of a plate (or of a single image).

    The output has the input's layout and further attributes (those of the top without its statistics), and says how it
    was made: see `derived_record`. Called again after an interruption with the same arguments, it resumes.

    Args:
        step: what to do; `step.chain` makes one of several.
        input_url, output_url: OME-Zarr plates or images.
        positions: names such as "A/4/0"; by default all.
        ngff_version: to write, "0.4" or "0.5"; by default the input's.
        overwrite: delete what is at `output_url` first; only where one process works alone.
        skip_complete: do nothing where the output is complete already, which a process that works alone else refuses.
        process, processes: this one takes every `processes`-th position. See `DerivedPlate` for how they share it.
        listener: is told how it goes on.

    Raises:
        UserError: before anything is written: an image does not suit the step, the output is there. Later: an image
            cannot be read or computed, the output cannot be written.
    """
    if overwrite and processes > 1:
        raise UserError(f"--overwrite: {processes} processes would delete each other's work; remove {output_url} first")
    listener = listener or Listener()
    source = open_plate(input_url, cached=False)
    check_apart(source.url, str(output_url))
    names = PositionNames(source, tuple(positions or ()))
    mine = partial(share, names, process, processes)
    record = new_record(step, source.url, list(positions or ()), ngff_version or source.ngff_version)
    existing = None if overwrite else find_output(output_url, record, source.is_hcs)
    if existing and existing.record.complete:
        if processes == 1 and not skip_complete:
            raise UserError(f"{output_url}: is complete already, made by this command; {REMEDY}")
        return PlateSummary(0, sum(1 for _ in mine()), complete=True)

    work = _survey(step, existing, names, process, processes)
    if process == 0:
        record = record.model_copy(update={"stacks": tuple(sorted(work.stacks))})
        top = without_statistics(further_attributes(source.attributes))
        output = start_output(output_url, source.is_hcs, names, record, top, existing=existing, overwrite=overwrite)
    else:
        output = join_output(output_url, source.is_hcs, record)
    listener.started(work.finished + work.positions, work.finished, work.slices)
    try:
        _make_tasks(output, _tasks(step, output, mine()), listener)
    finally:
        listener.ended()
    return PlateSummary(work.positions, work.finished, complete=output.complete_if_finished())


@dataclass
class _Work:
    """How much there is to do: positions that are finished, others, the slices that these still need, and which stacks
    (Z, Y, X) there are."""

    finished: int = 0
    positions: int = 0
    slices: int = 0
    stacks: set[tuple[int, int, int]] = field(default_factory=set)


@dataclass(frozen=True)
class _Task:
    """One time point to make."""

    position: Position
    derived: Derived
    time: int

    @property
    def where(self) -> str:
        return f"{self.position.url}, time point {self.time}"


def _survey(step: Step, existing: DerivedPlate | None, names: PositionNames, process: int, processes: int) -> _Work:
    """Check every position that is not finished, and forget it again: there may be a million. Who is about to start the
    output looks at those of all processes, others at their own."""
    work, starts = _Work(), process == 0 and existing is None
    for number, position in enumerate(share(names, 0, 1) if starts else share(names, process, processes)):
        if starts:
            work.stacks.add(position.shape[2:])
            step.derive(ImageInfo.of(position))
            if number % processes:
                continue
        finished, time_points = existing.progress(position.name) if existing else (False, 0)
        if finished:
            work.finished += 1
            continue
        if not starts:
            step.derive(ImageInfo.of(position))
        work.positions += 1
        times, _, depth, *_ = position.shape
        work.slices += (times - time_points) * depth
    return work


def _tasks(step: Step, output: DerivedPlate, positions: Iterable[Position]) -> Iterator[_Task]:
    """Every time point that is not finished, position after position, opened as they are reached."""
    for position in positions:
        finished, time_points = output.progress(position.name)
        if not finished:
            derived = step.derive(ImageInfo.of(position))
            yield from (_Task(position, derived, time) for time in range(time_points, position.shape[0]))


def _make_tasks(output: DerivedPlate, tasks: Iterable[_Task], listener: Listener) -> None:
    """Write one time point after the other; the last ones are still being written when the next one is there."""
    behind: deque[tuple[list[ts.Future], str, Callable[[], None]]] = deque()

    def settle() -> None:
        futures, where, mark = behind.popleft()
        try:
            for future in futures:
                resolve(future, where, action="written")
            mark()
        except BaseException:  # a later time point must not be marked when this one is not there
            behind.clear()
            raise

    target: DerivedImage | None = None
    with _Computation(output, listener) as computation:
        try:
            for task, result in computation.results(tasks):
                if target is None or target.position.name != task.position.name:
                    target = output.create_image(task.derived.image, task.derived.labels)
                mark = partial(_mark, output, target.position, task.time + 1, result.found, listener)
                behind.append((target.write(task.time, result), target.position.url, mark))
                if len(behind) > _WRITES_BEHIND:
                    settle()
        finally:
            while behind:  # what was computed before an error is kept
                settle()


class _Stopped(Exception):
    """Raised in a thread whose result nobody waits for."""


class _Computation:
    """Computes time points in threads, two at once while a further one is read; left, it has no thread any more.

    A step that uses a device lets one stack at a time have it (`Job`): meanwhile another's pixels are prepared, or what
    came out for it is checked.
    """

    def __init__(self, output: DerivedPlate, listener: Listener) -> None:
        self._listener, self._output = listener, output
        self._pool = ThreadPoolExecutor(_AT_ONCE, "compute")
        self._stop = threading.Event()

    def __enter__(self) -> "_Computation":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def results(self, tasks: Iterable[_Task]) -> Iterator[tuple[_Task, Result]]:
        """Each task with what comes of it, in order.

        Raises:
            UserError: of the first task that fails.
        """
        ahead: deque[tuple[_Task, _SliceCounter, Future[Result]]] = deque()
        begun = None

        def take() -> tuple[_Task, Result]:
            nonlocal begun
            task, counter, future = ahead.popleft()
            if task.position.name != begun:
                begun = task.position.name
                self._listener.position_begins(begun)
            counter.show()
            return task, future.result()

        for task in tasks:
            counter = _SliceCounter(self._listener, task.position.shape[2])
            stack = task.position.array()[task.time, list(task.derived.reads)].read()
            ahead.append((task, counter, self._pool.submit(self._compute, task, [stack], counter)))
            del stack  # the last one read would stay in memory
            if len(ahead) == _AT_ONCE + _READS_AHEAD:
                yield take()
        while ahead:
            yield take()

    def _compute(self, task: _Task, reading: list[ts.Future], counter: "_SliceCounter") -> Result:
        def progress(fraction: float) -> None:
            if self._stop.is_set():
                raise _Stopped
            counter.add(fraction)

        stack = read(reading.pop(), task.where)  # popped, so that nobody else keeps it
        try:
            result = task.derived.compute(
                stack, task.time, Job(progress, self._output.resolved, self._output.record.stacks)
            )
        except UserError as error:
            raise UserError(f"{task.where}: {error}") from error
        counter.finish()
        return result


def _mark(
    output: DerivedPlate, target: Position, time_points: int, found: Mapping[str, Any], listener: Listener
) -> None:
    output.mark(target, time_points, found)
    if time_points == target.shape[0]:
        listener.position_finished(target.name)


class _SliceCounter:
    """Turns fractions of a stack into whole slices, and tells of them once its stack is the one that is waited for."""

    def __init__(self, listener: Listener, slices: int) -> None:
        self._listener, self._slices, self._fraction, self._told = listener, slices, 0.0, 0
        self._shown, self._lock = False, threading.Lock()

    def show(self) -> None:
        """Tell what was counted, and from now on what is."""
        with self._lock:
            self._shown = True
            self._tell()

    def add(self, fraction: float) -> None:
        """Count `fraction` of the stack."""
        with self._lock:
            self._fraction += fraction
            self._tell()

    def finish(self) -> None:
        """The stack is done, however much of it was counted."""
        self.add(1.0)

    def _tell(self) -> None:
        done = min(self._slices, round(self._slices * self._fraction))
        if self._shown and done > self._told:
            self._listener.slices_done(done - self._told)
            self._told = done
