"""Scores of predictions that are distributions: several draws of a stain, or their mean and spread per pixel.

Plain NumPy in float64; `mean`, `spread` and `target` are arrays of one shape, in one unit. A mean and a spread stand
for a normal distribution of each pixel. Those of N draws are estimates, and few draws seem too sure of themselves even
where they are right: the interval for 90% of the pixels holds 76% for N = 4, 84% for 8, 87% for 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import ndtr, ndtri

from vsjax.errors import UserError

MARGINAL_BINS = 256
CALIBRATION_BINS = 20


def crps(draws: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of each pixel, in the images' units; 0 is perfect, of one value |error|.

    `[N, ...], [...] -> [...]`. The fair estimate, which does not depend on N on average (Ferro 2014, QJRMS 140:1917):
    `mean |x_i - y| - sum |x_i - x_j| / (2 N (N - 1))`, over all pairs. It can be negative.

    Raises:
        UserError: there are fewer than two draws, or the target has another shape than a draw.
    """
    if len(draws) < 2 or draws.shape[1:] != target.shape:
        raise UserError(f"draws: are {list(draws.shape)} and the target {list(target.shape)}; give [N, ...] and [...], "
                        "N at least 2")  # fmt: skip
    ordered = np.sort(draws.astype(np.float64), axis=0)
    count = len(draws)
    # Of sorted values the sum of the distances of all pairs is one of multiples of each.
    weights = (2 * np.arange(count) - count + 1) / (count * (count - 1))
    return np.abs(ordered - target).mean(axis=0) - np.tensordot(weights, ordered, axes=1)


def crps_gaussian(mean: np.ndarray, spread: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of a normal distribution at each pixel, in the images' units; |error| where
    the spread is 0 (Gneiting & Raftery 2007, JASA 102:359, equation 21)."""
    error, spread = _difference(target, mean), spread.astype(np.float64)
    z = np.divide(error, spread, out=np.zeros_like(error), where=spread > 0)
    normal = spread * (z * (2 * ndtr(z) - 1) + 2 * _density(z) - 1 / np.sqrt(np.pi))
    return np.where(spread > 0, normal, np.abs(error))


@dataclass(frozen=True)
class Marginal:
    """How a stain's pixels are distributed where nothing is known of the image: a histogram of bins that hold equally
    many, as far as equal values let them.

    Attributes:
        edges: `[bins + 1]`, values of the stain.
        density: `[bins]`, per unit.
    """

    edges: np.ndarray
    density: np.ndarray

    @classmethod
    def of(cls, stain: np.ndarray, bins: int = MARGINAL_BINS) -> Self:
        """The distribution of these values; UserError where they are all the same."""
        edges = np.unique(np.quantile(stain, np.linspace(0, 1, bins + 1), method="nearest")).astype(np.float64)
        if len(edges) < 2:
            raise UserError("stain: is constant, so it has no density; give an image that shows something")
        counts, _ = np.histogram(stain, edges)
        return cls(edges, counts / (stain.size * np.diff(edges)))

    def log2_density(self, values: np.ndarray) -> np.ndarray:
        """Of each value; values beyond the first and the last bin have theirs."""
        place = np.searchsorted(self.edges, values, side="right") - 1
        return np.log2(self.density)[np.clip(place, 0, len(self.density) - 1)]


def information_gain(
    mean: np.ndarray, spread: np.ndarray, target: np.ndarray, marginal: Marginal, floor: float
) -> np.ndarray:
    """How many bits the prediction tells of each pixel's true value beyond what is known of the stain without an image:

        log2 P(y | x) - log2 P(y)

    with the predicted density P(y | x), here normal with this mean and spread, and the stain's marginal density P(y),
    both at the true value y. 0 is a prediction that knows the stain and not the image, below 0 one that misleads. Its
    mean over pixels is a strictly proper score: no other distribution than the true one has a greater expectation.

    This is the information gain of Tonks et al. 2026 (arXiv 2602.23305), the logarithmic score against that of the
    marginal distribution, taken for pixels with a normal posterior, which mean and spread determine. The paper scores
    features of single cells; of its text only abstract and summaries were at hand when this was written, so its
    estimators of the two densities are not reproduced here and numbers are not to be compared with its own.

    Args:
        mean, spread, target: of one shape and unit.
        marginal: of the stain, in the same units.
        floor: smaller spreads count as this; without it one pixel on which all draws agree decides everything.
    """
    spread = np.maximum(spread.astype(np.float64), floor)
    z = _difference(target, mean) / spread
    return -np.log2(np.e) * z**2 / 2 - np.log2(spread * np.sqrt(2 * np.pi)) - marginal.log2_density(target)


def coverage(mean: np.ndarray, spread: np.ndarray, target: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Which share of the pixels lies within the central interval that should hold each of `shares` of them."""
    error, spread = np.abs(_difference(target, mean)), spread.astype(np.float64)
    return np.array([np.mean(error <= ndtri((1 + share) / 2) * spread) for share in shares])


@dataclass(frozen=True)
class Calibration:
    """The true error of pixels that claim about the same one; equal where the spread can be believed.

    Attributes:
        spread: `[bins]`, root mean square of the spreads in each bin, from small to large.
        error: `[bins]`, root mean square error.
        pixels: `[bins]`, how many.
    """

    spread: np.ndarray
    error: np.ndarray
    pixels: np.ndarray


def calibration(mean: np.ndarray, spread: np.ndarray, target: np.ndarray, bins: int = CALIBRATION_BINS) -> Calibration:
    """Spread against error in `bins` bins of equally many pixels each; fewer where many spreads are the same."""
    inner = np.quantile(spread, np.linspace(0, 1, bins + 1)[1:-1], method="nearest")
    edges = np.unique(inner[inner > spread.min()])
    sums = np.zeros((3, len(edges) + 1))  # pixels, squares of spreads, squares of errors
    for of_mean, of_spread, of_target in zip(*map(np.atleast_2d, (mean, spread, target)), strict=True):
        place = np.searchsorted(edges, of_spread.ravel(), side="right")
        squares = (np.square(part, dtype=np.float64).ravel() for part in (of_spread, _difference(of_target, of_mean)))
        sums += [np.bincount(place, part, len(edges) + 1) for part in (None, *squares)]
    return Calibration(*np.sqrt(sums[1:] / sums[0]), sums[0].astype(np.int64))


def _difference(target: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.subtract(target, mean, dtype=np.float64)


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
