"""Which image of one plate is compared with which of the other, and in which units.

Positions are paired by name, channels by name too: `nuclei_prediction` with `nuclei`. A plate in which no channel
carries the suffix (other software wrote it) is paired by the bare names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vsjax.errors import UserError
from vsjax.inference.record import read_prediction_record
from vsjax.plates.arrays import read
from vsjax.plates.derived_record import read_position_record
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate
from vsjax.plates.step import RECORD_ATTRIBUTE

SUFFIX = "_prediction"
SPREAD = "_spread"  # of the channel beside a prediction that is the mean of several draws
Affine = tuple[float, float]  # location, scale: x -> (x - location) / scale
IDENTITY: Affine = (0.0, 1.0)


@dataclass(frozen=True)
class Pair:
    """One channel of one position and time point in both plates, in the same units.

    `beside` holds what the levels that were chosen require: the source image, labels; [Z, Y, X] as stored.
    """

    position: str
    time: int
    channel: str
    prediction: np.ndarray  # [Z, Y, X] float32
    target: np.ndarray  # [Z, Y, X] float32
    pixel_size_um: tuple[float, float, float]  # z, y, x
    units: str  # a key of `UNITS`
    prediction_scale: float = 1.0  # what differences within the stored prediction were divided by
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A pair that can be read: metadata only, so that a list of all of them is small."""

    prediction: Position
    target: Position
    channel: str
    prediction_channel: str
    time: int
    units: str
    prediction_affine: Affine  # takes the stored prediction to `units`; unused if they are "standardized"
    target_affine: Affine

    def read(self) -> Pair:
        """Read both stacks and bring them to the same units.

        Raises:
            UserError: pixels cannot be read, or the prediction has non-finite ones (unfinished, or the model diverged).
        """
        sides = ((self.prediction, self.prediction_channel), (self.target, self.channel))
        reads = [(side, side.array()[self.time, side.channel_index(channel)].read()) for side, channel in sides]
        prediction, target = (np.asarray(read(future, side.url), dtype=np.float32) for side, future in reads)
        self._check_finite(prediction)
        if self.units == "standardized":
            (prediction, scale), (target, _) = _standardized(prediction), _standardized(target)
        else:
            prediction, target = _apply(self.prediction_affine, prediction), _apply(self.target_affine, target)
            scale = self.prediction_affine[1]
        return Pair(
            position=self.target.name,
            time=self.time,
            channel=self.channel,
            prediction=prediction,
            target=target,
            pixel_size_um=self.target.pixel_size_um,
            units=self.units,
            prediction_scale=scale,
        )

    def _check_finite(self, prediction: np.ndarray) -> None:
        bad = prediction.size - np.count_nonzero(np.isfinite(prediction))
        if not bad:
            return
        where = f"{self.prediction.url}: channel {self.prediction_channel!r}, time point {self.time}"
        if bad == prediction.size:
            raise UserError(f"{where} holds no finite pixel: the prediction of position {self.prediction.name!r} is "
                            "unfinished; run the same `python -m vsjax.predict` again, it resumes")  # fmt: skip
        raise UserError(f"{where} has {bad} non-finite pixels of {prediction.size}; predict position "
                        f"{self.prediction.name!r} again or leave it out with --positions")  # fmt: skip


def pair_plates(
    prediction: Plate,
    target: Plate,
    *,
    channels: Sequence[str] | None = None,
    positions: Sequence[str] | None = None,
    units: str = "auto",
) -> list[Job]:
    """All pairs, position by position, channel by channel, time point by time point; reads metadata only.

    Args:
        prediction: plate that was predicted.
        target: plate with the measured channels.
        channels: names in the target plate; all that were predicted if `None`.
        positions: names; all of the prediction plate if `None`.
        units: `auto` takes what the prediction's attributes say and standardises both where they say nothing;
            a key of `UNITS` enforces that convention.

    Raises:
        UserError: a position or channel is missing on one side, a prediction is unfinished, shapes differ, or the
            wanted units cannot be had.
    """
    names = list(dict.fromkeys(positions)) if positions else list(prediction.position_names)
    prediction.first_position()
    for plate, others in ((prediction, "--positions"), (target, "the prediction plate, or give --positions")):
        known = set(plate.position_names)
        missing = [name for name in names if name not in known]
        if missing:
            raise UserError(f"{plate.url}: has no position {_some(missing)}; it has {_some(plate.position_names)}; "
                            f"check {others}")  # fmt: skip
    jobs = []
    for name in names:
        _check_finished(prediction, prediction[name])
        jobs += _pair_position(prediction[name], target[name], channels, units)
    return jobs


def _check_finished(plate: Plate, position: Position) -> None:
    """UserError where `vsjax.predict` has not got to this position, or was interrupted within it."""
    remedy = "run the same `python -m vsjax.predict` again, it resumes, or choose others with --positions"
    try:
        _ = position.attributes
    except UserError as error:  # it is listed, but not there
        if RECORD_ATTRIBUTE in plate.attributes:
            raise UserError(f"{plate.url}: position {position.name!r} is not predicted yet; {remedy}") from error
        raise
    record = read_position_record(position)
    if record and not record.finished:
        done = f"{record.finished_time_points} of {position.shape[0]} time points"
        raise UserError(f"{plate.url}: position {position.name!r} is unfinished ({done}); {remedy}")


def source_channel(jobs: Sequence[Job]) -> str:
    """The channel of the target plate that was predicted from, or else its first that is not evaluated."""
    first = jobs[0]
    record = read_prediction_record(first.prediction)
    candidates = [*(record.source_channels if record else []), *first.target.channel_names]
    evaluated = {job.channel for job in jobs}
    usable = (name for name in candidates if name in first.target.channel_names and name not in evaluated)
    return next(usable, first.target.channel_names[0])


def _pair_position(prediction: Position, target: Position, channels: Sequence[str] | None, units: str) -> list[Job]:
    available = _predicted_channels(prediction)
    wanted = list(dict.fromkeys(channels)) if channels else [name for name in available if name in target.channel_names]
    lists = (f"predicted are {_some(available)} in {prediction.url}, measured are {_some(target.channel_names)} in "
             f"{target.url}")  # fmt: skip
    if not wanted:
        raise UserError(f"no channel in common: {lists}; give the plate with the measured channels as --target")
    for name in wanted:
        if name not in available or name not in target.channel_names:
            raise UserError(f"--channels: {name!r} is not in both plates: {lists}")
    for axis, a, b in zip("TZYX", _tzyx(prediction), _tzyx(target), strict=True):
        if a != b:
            raise UserError(f"{prediction.url}: {axis} extent is {a}, but {b} in {target.url}; evaluate against the "
                            "plate that was predicted from")  # fmt: skip
    jobs = []
    for name in wanted:
        convention = _convention(prediction, name, units)
        jobs += [Job(prediction, target, name, available[name], time, *convention) for time in range(target.shape[0])]
    return jobs


def _predicted_channels(position: Position) -> dict[str, str]:
    """Target's name -> name in the prediction. Copied source channels are left out where predictions are marked."""
    marked = {name.removesuffix(SUFFIX): name for name in position.channel_names if name.endswith(SUFFIX)}
    return marked or {name: name for name in position.channel_names}


def _convention(position: Position, channel: str, units: str) -> tuple[str, Affine, Affine]:
    """Units to compare in, and what takes the stored prediction and the stored target there."""
    record = read_prediction_record(position)
    stored = record and record.normalization.get(channel)
    known = stored is not None and stored.scale > 0
    location, scale = (stored.location, stored.scale) if known else IDENTITY
    made_in = record and record.units
    if units == "auto":
        units = made_in if made_in == "target" or (made_in == "normalized" and known) else "standardized"
    if units == "standardized":
        return units, IDENTITY, IDENTITY
    if not known and (units == "normalized" or made_in == "normalized"):
        raise UserError(f"{position.url}: attribute {RECORD_ATTRIBUTE!r} has no location and scale of {channel!r}, so "
                        f"--units {units} cannot be had; use --units standardized")  # fmt: skip
    if units == "normalized":
        return units, IDENTITY if made_in == "normalized" else (location, scale), (location, scale)
    return units, (-location / scale, 1 / scale) if made_in == "normalized" else IDENTITY, IDENTITY


def _apply(affine: Affine, x: np.ndarray) -> np.ndarray:
    return x if affine == IDENTITY else (x - np.float32(affine[0])) / np.float32(affine[1])


def _standardized(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Minus its mean, over its standard deviation, and the latter; a constant image becomes zero, a non-finite one
    stays so."""
    if not x.max() > x.min():
        return np.where(np.isfinite(x), np.float32(0), x), 1.0
    centred = x - np.float32(x.mean(dtype=np.float64))
    sd = centred.std(dtype=np.float64)
    return centred / np.float32(sd), float(sd)


def _tzyx(position: Position) -> tuple[int, int, int, int]:
    time, _, *space = position.shape
    return (time, *space)


def _some(names: Sequence[str], at_most: int = 8) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:at_most]) + (f", ... ({len(names)} in all)" if len(names) > at_most else "") or "none"
