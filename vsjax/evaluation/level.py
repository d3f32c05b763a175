"""What a level of evaluation gets and gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Pair:
    """One channel of one position and time point in both plates, in the same units."""

    position: str
    time: int
    channel: str
    prediction: np.ndarray  # [Z, Y, X] float32
    target: np.ndarray  # [Z, Y, X] float32
    pixel_size_um: tuple[float, float, float]  # z, y, x
    units: str  # a key of `pairing.UNITS`


@dataclass(frozen=True)
class Metric:
    """How a metric is called in tables and figures, and what exactly it is."""

    label: str
    definition: str


class Level(Protocol):
    """A module such as `pixel`: its metrics, and the function that measures them on one pair."""

    METRICS: Mapping[str, Metric]

    def measure(self, pair: Pair) -> tuple[dict[str, float], list[str]]:
        """Values by metric name (NaN where undefined) and a note for each reason why one is NaN."""
        ...
