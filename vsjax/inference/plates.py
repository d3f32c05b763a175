"""Predicting a whole plate: reading, computing and writing at the same time, continued where it was interrupted.

Whole positions are predicted one after the other, and within a position its time points in order; batches never span
two of them. So what a position's pixels are does not depend on where a run was interrupted, nor on which positions
another process takes.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from tqdm import tqdm

from vsjax.data.normalization import location_scale
from vsjax.data.plate import Plate, Position, open_plate, read
from vsjax.data.statistics import read_statistics
from vsjax.data.storage import Store, resolve
from vsjax.errors import UserError
from vsjax.inference.output import OutputPlate, check_apart, find_begun, open_output
from vsjax.inference.predictor import PredictionSettings, Predictor
from vsjax.version import __version__

SUFFIX = "_prediction"  # of the channels; what evaluation looks for
_READS_AHEAD = 2  # stacks that are being read while one is computed
_WRITES_BEHIND = 2  # stacks that are being written meanwhile


@dataclass(frozen=True)
class PlateSummary:
    """What `predict_plate` did: positions predicted (wholly or their rest), and those that were finished before."""

    predicted: int
    finished_before: int


@dataclass(frozen=True)
class _Field:
    """One position to predict: the source channels' indices, and the location and scale [C] of each time point."""

    position: Position
    channels: tuple[int, ...]
    normalization: tuple[tuple[np.ndarray | None, np.ndarray | None], ...]

    @property
    def stack_shape(self) -> tuple[int, int, int, int]:
        """[Z, Y, X, C] of what the predictor gets."""
        return (*self.position.shape[2:], len(self.channels))


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
        settings: how to predict.
        ngff_version: "0.4" or "0.5"; by default the input's.
        overwrite: delete what is at `output_url` first.
        process, processes: this one takes every `processes`-th position. The output must then have been begun by one
            of them before the others call this function.

    Raises:
        UserError: before anything is written: a position, channel or statistics are missing, a stack is shallower than
            the network's input, the output is there. During the work: an image cannot be read or is not finite.
    """
    settings = settings or PredictionSettings()
    predictor.check(settings)
    source = open_plate(input_url)
    names = list(dict.fromkeys(positions)) if positions else list(source.position_names)
    fields = _open_fields(predictor, source, names, source_channels or predictor.source_channels)
    check_apart(source.url, str(output_url))
    record = _record(predictor, source, settings, positions, source_channels, ngff_version)
    begun = None if overwrite else find_begun(output_url, record)
    if begun is None:
        record["resolved"] = _resolve_settings(predictor, fields.values(), settings)
    else:
        record = begun
    output = open_output(output_url, source, names, record, resume=begun is not None, overwrite=overwrite)

    mine = names[process::processes]
    done = output.finished_time_points(mine)
    tasks = [(name, time) for name in mine for time in range(done[name], fields[name].position.shape[0])]
    remaining = len({name for name, _ in tasks})
    if remaining < len(mine):
        print(f"{len(mine) - remaining} of {len(mine)} positions were finished before", flush=True)
    with tqdm(total=sum(fields[name].stack_shape[0] for name, _ in tasks), unit="slice", file=sys.stderr) as bar:
        _predict_tasks(predictor, output, fields, tasks, settings, bar)
    finished = output.finished_time_points(names)  # by all processes
    if all(finished[name] == fields[name].position.shape[0] for name in names):
        output.mark_complete()
    return PlateSummary(predicted=remaining, finished_before=len(mine) - remaining)


def _open_fields(
    predictor: Predictor, source: Plate, names: Sequence[str], channels: Sequence[str]
) -> dict[str, _Field]:
    """Every position with what predicting it needs, all of it checked."""
    if len(channels) != len(predictor.source_channels):
        raise UserError(
            f"--source names {len(channels)} channels but the model takes {len(predictor.source_channels)}: "
            f"{', '.join(predictor.source_channels)}"
        )
    fields = {}
    for name in names:
        position = source[name]
        indices = tuple(position.channel_index(channel) for channel in channels)
        times, _, depth, *_ = position.shape
        if depth < predictor.in_depth:
            raise UserError(
                f"{position.url}: the stack has {depth} slices (Z) but the network needs at least {predictor.in_depth} "
                "(in_stack_depth); take a deeper plate, or a checkpoint of a shallower network"
            )
        pairs = tuple(_location_scale(predictor, position, indices, time) for time in range(times))
        fields[name] = _Field(position, indices, pairs)
    return fields


def _location_scale(
    predictor: Predictor, position: Position, channels: Sequence[int], time: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What normalises one stack, [C], from the plate's statistics at the level that the model was trained with."""
    level, statistic = predictor.normalization.level, predictor.normalization.statistic
    if level == "patch":
        return None, None
    if level == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    pairs = []
    for channel in channels:
        name = position.channel_names[channel]
        statistics = read_statistics(position, name, level, time)
        pairs.append(location_scale(statistics, statistic, f"{name} of {position.url}"))
    location, scale = np.array(pairs, np.float32).T
    return location, scale


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
        "settings": asdict(settings),
        "ngff_version": ngff_version or source.ngff_version,
        "units": settings.units,
        "normalization": normalization,
    }
    return json.loads(json.dumps(record))


def _resolve_settings(
    predictor: Predictor, fields: Iterable[_Field], settings: PredictionSettings
) -> dict[str, dict[str, Any]]:
    """Tile and batch size for every shape of stack. They are recorded and a continued run takes them from there, since
    the free memory from which they follow may have changed."""
    resolved = {}
    for shape in dict.fromkeys(field.stack_shape for field in fields):
        chosen = predictor.resolve(shape, settings)
        resolved[_key(shape)] = {"tile": list(chosen.tile), "batch_size": chosen.batch_size}
    return resolved


def _key(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _predict_tasks(
    predictor: Predictor,
    output: OutputPlate,
    fields: Mapping[str, _Field],
    tasks: Sequence[tuple[str, int]],
    settings: PredictionSettings,
    bar: tqdm,
) -> None:
    """Predict (position, time point) after (position, time point): the next ones are read and the last ones written
    meanwhile."""
    behind: deque[tuple[ts.Future, str, Callable[[], None]]] = deque()

    def settle() -> None:
        future, where, mark = behind.popleft()
        resolve(future, where, action="written")
        mark()

    target: Position | None = None
    try:
        for (name, time), stack in _read_ahead(fields, tasks):
            field = fields[name]
            if target is None or target.name != name:
                target = _create_target(predictor, output, field)
            bar.set_description(name)
            resolved = output.record["resolved"][_key(field.stack_shape)]
            chosen = replace(settings, tile=tuple(resolved["tile"]), batch_size=resolved["batch_size"])
            try:
                on_progress = _SliceCounter(bar, len(stack)).add
                prediction = predictor.predict_stack(stack, *field.normalization[time], chosen, on_progress)
            except UserError as error:
                raise UserError(f"{field.position.url}, time point {time}: {error}") from error
            future = target.array()[time].write(np.moveaxis(prediction, -1, 0))
            behind.append((future, target.url, partial(_mark, output, target, time + 1, bar)))
            if len(behind) > _WRITES_BEHIND:
                settle()
    finally:
        while behind:  # what was computed before an error is kept
            settle()


def _read_ahead(
    fields: Mapping[str, _Field], tasks: Iterable[tuple[str, int]]
) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Each task with its stack [Z, Y, X, C]; the next ones are already being read."""
    ahead: deque[tuple[tuple[str, int], ts.Future]] = deque()

    def take() -> tuple[tuple[str, int], np.ndarray]:
        task, future = ahead.popleft()
        stack = read(future, f"{fields[task[0]].position.url}, time point {task[1]}")
        return task, np.moveaxis(stack, 0, -1)

    for name, time in tasks:
        field = fields[name]
        ahead.append(((name, time), field.position.array()[time, list(field.channels)].read()))
        if len(ahead) > _READS_AHEAD:
            yield take()
    while ahead:
        yield take()


def _create_target(predictor: Predictor, output: OutputPlate, field: _Field) -> Position:
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
