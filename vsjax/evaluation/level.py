"""What a level of evaluation is: it says what it requires, measures pairs, sums up and draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from vsjax.evaluation.pairing import Job, Pair
from vsjax.schema import Document

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """How a metric is called in tables and figures, what exactly it is, and which values are better (None: neither)."""

    label: str
    definition: str
    better: Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Measurement:
    """What a level finds in one pair.

    Attributes:
        values: one number per metric, NaN where it is undefined.
        notes: a reason for each that is NaN.
        objects: one row per object, with the columns that the level declares.
    """

    values: Mapping[str, float]
    notes: Sequence[str] = ()
    objects: Sequence[Row] = ()


class MeasurementRecord(Document):
    """A measurement as it is kept until the report is written; NaN is null there, infinity text."""

    values: dict[str, int | float | Literal["inf", "-inf"] | None]
    notes: tuple[str, ...]
    objects: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, found: Measurement) -> "MeasurementRecord":
        """The record of what was found."""
        plain = {"values": _plain(found.values), "objects": tuple(map(_plain, found.objects))}
        return cls(**plain, notes=tuple(found.notes))

    def measurement(self) -> Measurement:
        """What `of` was called with."""
        return Measurement(_numbers(self.values), self.notes, tuple(map(_numbers, self.objects)))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain_number(value) for name, value in row.items()}


def plain_number(value: Any) -> Any:
    """A number, NumPy's too, as JSON has it: NaN is None, infinity text; anything else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    special = {None: math.nan, "inf": math.inf, "-inf": -math.inf}
    return {name: special.get(value, value) if isinstance(value, str | None) else value for name, value in row.items()}


@dataclass(frozen=True)
class Results:
    """What a level found in all pairs.

    Attributes:
        jobs: the pairs, to be read again where a figure shows them.
        rows: of each job `position`, `time`, `channel`, `units`, the values by name, and `note`.
        objects: CSV file with `position`, `time`, `channel` and the level's columns; None if the level has none.
        source: channel of the target plate to show beside a pair.
    """

    jobs: Sequence[Job]
    rows: Sequence[Row]
    objects: Path | None
    source: str


class Level(Protocol):
    """A frozen dataclass such as `pixel.PixelLevel`. Its fields are its settings: with others an evaluation that was
    interrupted is not resumed.

    Attributes:
        name: of its tables and figures, `NAME.csv`; where levels meet its metrics are called `NAME/METRIC`.
        requires: what it finds in `Pair.beside`, keys of `requirements.REQUIREMENTS`.
        metrics: by name.
        objects: the columns of its table of objects by name, empty if it has none.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    metrics: ClassVar[Mapping[str, Metric]]
    objects: ClassVar[Mapping[str, Metric]]

    def measure(self, pair: Pair) -> Measurement:
        """The metrics of one pair and its objects."""
        ...

    def summarize(self, results: Results) -> list[Row]:
        """Rows with the columns of `report.summarize`, and perhaps more."""
        ...

    def draw(self, output: Path, results: Results) -> None:
        """Write its figures, PNG files whose names begin with the level's, to the folder `output`."""
        ...
