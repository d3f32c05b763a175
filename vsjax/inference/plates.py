"""Predicting a whole plate: reading, computing and writing at the same time, continued where it was interrupted.

Whole positions are predicted one after the other, and within a position its time points in order; batches never span
two of them. So what a position's pixels are does not depend on where a run was interrupted, nor on which positions
another process takes.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from tqdm import tqdm

from vsjax.errors import UserError
from vsjax.inference.fields import Field, PositionNames, open_field, share
from vsjax.inference.output import REMEDY, OutputPlate, begin_output, find_begun, join_output
from vsjax.inference.predictor import Predictor
from vsjax.inference.settings import PredictionSettings
from vsjax.plates.arrays import read
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate, open_plate
from vsjax.plates.storage import Store, check_apart, resolve
from vsjax.version import __version__

SUFFIX = "_prediction"  # of the channels; what evaluation looks for
_READS_AHEAD = 2  # stacks that are being read while one is computed
_WRITES_BEHIND = 2  # stacks that are being written meanwhile


@dataclass(frozen=True)
class PlateSummary:
    """What `predict_plate` did.

    Attributes:
        predicted: positions that this process predicted, wholly or their rest.
        finished_before: those of its positions that were finished before.
        complete: whether the whole output is, by all processes.
    """

    predicted: int
    finished_before: int
    complete: bool


def predict_plate(
    predictor: Predictor,
    input_url: str | Path,
    output_url: str | Path,
    *,
    positions: Sequence[str] | None = None,
    source_channels: Sequence[str] | None = None,
    settings: PredictionSettings | None = None,
    ngff_version: str | None = None,
    overwrite: bool = False,
    process: int = 0,
    processes: int = 1,
) -> PlateSummary:
    """Predict every time point of every position of a plate (or of a single image).

    The output has the input's layout, scale and axes (a channel axis is added where it is needed), one float32 channel
    `TARGET_prediction` per target, and the attributes that `OutputPlate` describes. Called again after an interruption
    with the same arguments, it continues.

    Args:
        predictor: from `load`.
        input_url, output_url: OME-Zarr plates or images.
        positions: names such as "A/4/0"; by default all.
        source_channels: what the plate calls the model's source channels, where it has other names for them.
        settings, ngff_version: how to predict, and what to write ("0.4" or "0.5"; by default the input's).
        overwrite: delete what is at `output_url` first; only where one process works alone.
        process, processes: this one takes every `processes`-th position. See `OutputPlate` for how they share it.

    Raises:
        UserError: before anything is written: a position, channel or statistics are missing, a stack is shallower than
            the network's input, the output is there. Later: an image cannot be read, the output cannot be written.
    """
    settings = settings or PredictionSettings()
    predictor.check(settings)
    if overwrite and processes > 1:
        raise UserError(f"--overwrite: {processes} processes would delete each other's work; remove {output_url} first")
    channels = _check_channels(predictor, source_channels)
    source = open_plate(input_url, cached=False)
    check_apart(source.url, str(output_url))
    names = PositionNames(source, tuple(positions or ()))
    record = _record(predictor, source, settings, positions, source_channels, ngff_version)
    begun = None if overwrite else find_begun(output_url, record, source.is_hcs)
    if begun and begun.complete:
        if processes == 1:
            made = "predicted by this checkpoint with these settings"
            raise UserError(f"{output_url}: is complete already, {made}; {REMEDY}")
        return PlateSummary(0, sum(1 for _ in share(names, process, processes)), complete=True)

    work = _survey(predictor, begun, share(names, process, processes), channels)
    if process == 0:
        output = begin_output(output_url, source.is_hcs, names, record, begun=begun, overwrite=overwrite)
    else:
        output = join_output(output_url, source.is_hcs, record)
    if work.finished:
        print(f"{work.finished} of {work.finished + work.positions} positions were finished before", flush=True)
    tasks = _tasks(predictor, output, share(names, process, processes), channels)
    with tqdm(total=work.slices, unit="slice", file=sys.stderr) as bar:
        _predict_tasks(predictor, output, tasks, settings, bar)
    return PlateSummary(work.positions, work.finished, complete=output.complete_if_finished())


def _check_channels(predictor: Predictor, source_channels: Sequence[str] | None) -> Sequence[str]:
    """The plate's names of the source channels; UserError where they are not as many as the model takes."""
    channels = source_channels or predictor.source_channels
    if len(channels) != len(predictor.source_channels):
        raise UserError(
            f"--source names {len(channels)} channels but the model takes {len(predictor.source_channels)}: "
            f"{', '.join(predictor.source_channels)}"
        )
    return channels


@dataclass
class _Work:
    """How much there is to do: positions that are finished, others, and the slices that these still need."""

    finished: int = 0
    positions: int = 0
    slices: int = 0


def _survey(
    predictor: Predictor, begun: OutputPlate | None, positions: Iterable[Position], channels: Sequence[str]
) -> _Work:
    """Check every position that is not finished, and forget it again: there may be a million."""
    work = _Work()
    for position in positions:
        finished, time_points = begun.progress(position.name) if begun else (False, 0)
        if finished:
            work.finished += 1
            continue
        field = open_field(predictor, position, channels)
        work.positions += 1
        work.slices += (field.times - time_points) * field.stack_shape[0]
    return work


def _tasks(
    predictor: Predictor, output: OutputPlate, positions: Iterable[Position], channels: Sequence[str]
) -> Iterator[tuple[Field, int]]:
    """Every time point that is not finished, position after position, opened as they are reached."""
    for position in positions:
        finished, time_points = output.progress(position.name)
        if not finished:
            field = open_field(predictor, position, channels)
            yield from ((field, time) for time in range(time_points, field.times))


def _record(
    predictor: Predictor,
    source: Plate,
    settings: PredictionSettings,
    positions: Sequence[str] | None,
    source_channels: Sequence[str] | None,
    ngff_version: str | None,
) -> dict[str, Any]:
    """What the output says about how it was made, as JSON has it."""
    normalization = {}  # unknown for converted weights; evaluation then standardises
    if predictor.target_location is not None:
        numbers = zip(predictor.target_channels, predictor.target_location, predictor.target_scale, strict=True)
        normalization = {name: {"location": float(at), "scale": float(scale)} for name, at, scale in numbers}
    local = Store(source.url).local_path
    record = {
        "version": __version__,
        "checkpoint": predictor.checkpoint,
        "input": source.url if local is None else str(local.resolve()),
        "positions": list(positions) if positions else "all",
        "source_channels": list(source_channels or predictor.source_channels),
        "settings": settings.to_json(),
        "ngff_version": ngff_version or source.ngff_version,
        "units": settings.units,
        "normalization": normalization,
        "resolved": {},  # tile, batch size, devices by the shape of stack, as they are met
    }
    return json.loads(json.dumps(record))


def _resolve(
    predictor: Predictor, output: OutputPlate, shape: tuple[int, ...], settings: PredictionSettings
) -> PredictionSettings:
    """Tile, batch size and devices for a shape of stack [Z, Y, X, C]. The first process that meets the shape records
    them; all others, and a continued run, take them from there, since the free memory from which they follow may
    differ."""

    def choose() -> dict[str, Any]:
        chosen = predictor.resolve(shape, settings)
        return {"tile": list(chosen.tile), "batch_size": chosen.batch_size, "space": chosen.space}

    resolved = output.resolved("x".join(map(str, shape)), choose)
    tile, batch_size, space = (resolved[field] for field in ("tile", "batch_size", "space"))
    return replace(settings, tile=tuple(tile), batch_size=batch_size, space=space)


def _predict_tasks(
    predictor: Predictor,
    output: OutputPlate,
    tasks: Iterable[tuple[Field, int]],
    settings: PredictionSettings,
    bar: tqdm,
) -> None:
    """Predict (position, time point) after (position, time point): the next ones are read and the last ones written
    meanwhile."""
    behind: deque[tuple[ts.Future, str, Callable[[], None]]] = deque()

    def settle() -> None:
        future, where, mark = behind.popleft()
        try:
            resolve(future, where, action="written")
            mark()
        except BaseException:  # a later time point must not be marked when this one is not there
            behind.clear()
            raise

    target: Position | None = None
    try:
        for (field, time), stack in _read_ahead(tasks):
            chosen = _resolve(predictor, output, field.stack_shape, settings)
            if target is None or target.name != field.position.name:
                target = _create_target(predictor, output, field)
            bar.set_description(field.position.name)
            try:
                on_progress = _SliceCounter(bar, len(stack)).add
                prediction = predictor.predict_stack(
                    stack, *field.normalization[time], chosen, on_progress, name=field.position.name, time=time
                )
            except UserError as error:
                raise UserError(f"{field.position.url}, time point {time}: {error}") from error
            future = target.array()[time].write(np.moveaxis(prediction, -1, 0))
            behind.append((future, target.url, partial(_mark, output, target, time + 1, bar)))
            if len(behind) > _WRITES_BEHIND:
                settle()
    finally:
        while behind:  # what was computed before an error is kept
            settle()


def _read_ahead(tasks: Iterable[tuple[Field, int]]) -> Iterator[tuple[tuple[Field, int], np.ndarray]]:
    """Each task with its stack [Z, Y, X, C]; the next ones are already being read."""
    ahead: deque[tuple[tuple[Field, int], ts.Future]] = deque()

    def take() -> tuple[tuple[Field, int], np.ndarray]:
        (field, time), future = ahead.popleft()
        stack = read(future, f"{field.position.url}, time point {time}")
        return (field, time), np.moveaxis(stack, 0, -1)

    for field, time in tasks:
        ahead.append(((field, time), field.position.array()[time, list(field.channels)].read()))
        if len(ahead) > _READS_AHEAD:
            yield take()
    while ahead:
        yield take()


def _create_target(predictor: Predictor, output: OutputPlate, field: Field) -> Position:
    """The position to write into, like the one that is predicted from."""
    position, channels = field.position, predictor.target_channels
    times, _, *space = position.shape
    axes = "".join(axis for axis in "tczyx" if axis in position.axes or (axis == "c" and len(channels) > 1))
    return output.create_position(
        position.name,
        shape=(times, len(channels), *space),
        dtype=np.float32,
        channel_names=[channel + SUFFIX for channel in channels],
        pixel_size_um=position.pixel_size_um,
        scale=(position.scale[0], 1.0, *position.pixel_size_um),
        axes=axes,
        display_ranges=predictor.display_ranges(output.record["units"]),
    )


def _mark(output: OutputPlate, target: Position, time_points: int, bar: tqdm) -> None:
    output.mark(target, time_points)
    if time_points == target.shape[0]:
        bar.write(f"{target.name}: finished", file=sys.stdout)
        sys.stdout.flush()


class _SliceCounter:
    """Turns fractions of a stack into whole slices of the progress bar."""

    def __init__(self, bar: tqdm, slices: int) -> None:
        self._bar, self._slices, self._fraction, self._shown = bar, slices, 0.0, 0

    def add(self, fraction: float) -> None:
        """Count `fraction` of the stack."""
        self._fraction += fraction
        done = round(self._slices * self._fraction)
        self._bar.update(done - self._shown)
        self._shown = done
