"""The level of uncertainty: whether the spread of several draws says how far their mean is from the truth.

For plates that were predicted with `--draws`. Units in which the prediction was made ("normalized", "target") are those
to look at: "standardized" ones stretch the mean, which varies less than the stain, and its spread with it. Scores:
`vsjax/uncertainty.py`.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from vsjax import uncertainty
from vsjax.evaluation.figures import plot_calibration, plot_metrics
from vsjax.evaluation.level import Measurement, Metric, Results, Row
from vsjax.evaluation.pairing import Pair
from vsjax.evaluation.report import summarize

FLOOR = 0.01  # of the target's standard deviation: a smaller spread counts as this in the information gain
SHARES = (0.5, 0.9)

METRICS = {
    "crps": Metric(
        "CRPS",
        "continuous ranked probability score per pixel of a normal distribution with the prediction's mean and spread, "
        "in the row's units; for a spread of 0 the absolute error",
        "lower",
    ),
    "information_gain": Metric(
        "information gain (bits)",
        "mean over pixels of log2 of the predicted density (normal, with the prediction's mean and spread, the latter "
        f"at least {FLOOR} of the target's standard deviation) over that of the target's own pixels (a histogram of "
        f"{uncertainty.MARGINAL_BINS} bins of equal mass), at the target's value",
        "higher",
    ),
    "correlation": Metric("r of spread and error", "Pearson's correlation of spread and absolute error", "higher"),
    "coverage_50": Metric("coverage of 50%", "share of pixels within .674 spreads of the mean; .5 is right", None),
    "coverage_90": Metric("coverage of 90%", "share of pixels within 1.645 spreads of the mean; .9 is right", None),
}
BINS = {
    "bin": Metric("bin", "of the stack's pixels by their spread, equally many in each where they differ", None),
    "spread": Metric("spread", "root mean square of the spreads, in the row's units", None),
    "error": Metric("error", "root mean square error, in the row's units", None),
    "pixels": Metric("pixels", "how many", None),
}


@dataclass(frozen=True)
class UncertaintyLevel:
    """The level `uncertainty`; see the module. Its objects are the bins of the calibration curve."""

    name: ClassVar[str] = "uncertainty"
    requires: ClassVar[tuple[str, ...]] = ("spread",)
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    objects: ClassVar[Mapping[str, Metric]] = BINS

    def measure(self, pair: Pair) -> Measurement:
        """The scores of one pair and its calibration curve."""
        return measure(pair)

    def summarize(self, results: Results) -> list[Row]:
        """Mean and standard deviation per channel."""
        return summarize(results.rows, METRICS)

    def draw(self, output: Path, results: Results) -> None:
        """Write `uncertainty.png`, each score per position, and `uncertainty_calibration.png`."""
        plot_metrics(output / "uncertainty.png", results.rows, METRICS)
        units = ", ".join(dict.fromkeys(row["units"] for row in results.rows))
        plot_calibration(output / "uncertainty_calibration.png", pooled_curves(results.objects), units)


def measure(pair: Pair) -> Measurement:
    """The scores of one pair, and a note for each reason why one of them is NaN: all of them where target or spread
    have non-finite pixels or the target is constant."""
    spread = pair.beside["spread"].astype(np.float32) / np.float32(pair.prediction_scale)
    for name, image in (("target", pair.target), ("spread", spread)):
        if bad := image.size - np.count_nonzero(np.isfinite(image)):
            return _nothing(f"{name} has {bad} non-finite pixels")
    if pair.target.max() == pair.target.min():
        return _nothing("target is constant: no score")
    floor = FLOOR * float(pair.target.std(dtype=np.float64))
    marginal = uncertainty.Marginal.of(pair.target)
    sums = np.zeros(2 + len(SHARES))
    for slices in zip(pair.prediction, spread, pair.target, strict=True):
        gain = uncertainty.information_gain(*slices, marginal, floor)
        means = [uncertainty.crps_gaussian(*slices).mean(), gain.mean(), *uncertainty.coverage(*slices, SHARES)]
        sums += means
    names = ("crps", "information_gain", "coverage_50", "coverage_90")
    values = dict(zip(names, (sums / len(spread)).tolist(), strict=True))
    values["correlation"] = _correlation(spread, np.abs(pair.prediction - pair.target))
    notes = ["spread or error is constant: no correlation"] if math.isnan(values["correlation"]) else []
    curve = uncertainty.calibration(pair.prediction, spread, pair.target)
    rows = zip(curve.spread.tolist(), curve.error.tolist(), curve.pixels.tolist(), strict=True)
    return Measurement(values, notes, [dict(zip(BINS, (i, *row), strict=True)) for i, row in enumerate(rows)])


def _nothing(note: str) -> Measurement:
    return Measurement(dict.fromkeys(METRICS, np.nan), [note])


def _correlation(spread: np.ndarray, error: np.ndarray) -> float:
    """Pearson's, in float64 slice by slice; NaN where one of the two is constant."""
    if spread.max() == spread.min() or error.max() == error.min():
        return math.nan
    means = spread.mean(dtype=np.float64), error.mean(dtype=np.float64)
    moments = np.zeros((2, 2))
    for planes in zip(spread, error, strict=True):
        centred = np.stack([plane.ravel() - mean for plane, mean in zip(planes, means, strict=True)])
        moments += centred @ centred.T
    return float(moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]))


def pooled_curves(table: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Spread and error of each channel, the same bins of all its stacks taken together: from the level's objects."""
    sums: dict[str, dict[int, np.ndarray]] = {}
    for row in _rows(table):
        spread, error, pixels = (float(row[name]) for name in ("spread", "error", "pixels"))
        bins = sums.setdefault(row["channel"], {})
        bins[int(row["bin"])] = bins.get(int(row["bin"]), 0) + pixels * np.array([spread**2, error**2, 1])
    curves = {}
    for channel, bins in sums.items():
        squares = np.array([bins[number] for number in sorted(bins)]).T
        curves[channel] = tuple(np.sqrt(squares[:2] / squares[2]).tolist())
    return curves


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
