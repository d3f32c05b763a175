"""The pixel level: agreement of intensities, in float64, over a whole Z, Y, X stack.

SSIM is Wang et al. 2004 through scikit-image; the other metrics are written out. Nothing larger than a slice is
converted to float64, so the memory needed is the two float32 stacks. Twins for the device: `vsjax/metrics.py`.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from skimage.metrics import structural_similarity

from vsjax.evaluation.figures import plot_metrics
from vsjax.evaluation.level import Measurement, Metric, Results, Row
from vsjax.evaluation.pairing import Pair
from vsjax.evaluation.panels import draw_panels
from vsjax.evaluation.report import summarize

SSIM_WINDOW = 11  # what scikit-image derives from sigma 1.5 at its truncation of 3.5 sigma
SSIM_THREADS = 4
RANKED_BY = "pearson"  # what best, median and worst mean in the panels

METRICS = {
    "pearson": Metric("Pearson", "Pearson's correlation coefficient over the Z, Y, X stack", "higher"),
    "ssim": Metric(
        "SSIM",
        "structural similarity per z slice, mean over slices; Gaussian window of 11 x 11 pixels, sigma 1.5, k1 .01, "
        "k2 .03, population covariances (scikit-image); data range = max - min of the target's stack",
        "higher",
    ),
    "psnr": Metric("PSNR (dB)", "10 log10(range² / MSE), range = max - min of the target's stack", "higher"),
    "mse": Metric("MSE", "mean squared error, in the row's units squared", "lower"),
    "mae": Metric("MAE", "mean absolute error, in the row's units", "lower"),
    "r2": Metric("R²", "coefficient of determination, 1 - MSE / variance of the target", "higher"),
}


@dataclass(frozen=True)
class PixelLevel:
    """The level `pixel`; see the module."""

    name: ClassVar[str] = "pixel"
    requires: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    objects: ClassVar[Mapping[str, Metric]] = {}

    def measure(self, pair: Pair) -> Measurement:
        """The metrics of one pair."""
        return measure(pair)

    def summarize(self, results: Results) -> list[Row]:
        """Mean and standard deviation per channel."""
        return summarize(results.rows, METRICS)

    def draw(self, output: Path, results: Results) -> None:
        """Write `pixel.png`, each metric per position, and `pixel_panels_CHANNEL.png`."""
        plot_metrics(output / "pixel.png", results.rows, METRICS)
        draw_panels(output, "pixel_panels", results, RANKED_BY, METRICS[RANKED_BY])


def measure(pair: Pair) -> Measurement:
    """The metrics of one pair, and a note for each reason why one of them is NaN.

    Undefined values are NaN (a constant image has no correlation; an image smaller than the window no SSIM), and so is
    everything when the target has non-finite pixels. `psnr` is infinite for identical images.
    """
    prediction, target = pair.prediction, pair.target
    bad = target.size - np.count_nonzero(np.isfinite(target))
    if bad:
        return Measurement(values=dict.fromkeys(METRICS, np.nan), notes=[f"target has {bad} non-finite pixels"])
    notes = []
    span = float(target.max()) - float(target.min())
    if span == 0:
        notes.append("target is constant: no Pearson, SSIM, PSNR, R²")
    if prediction.max() == prediction.min():
        notes.append("prediction is constant: no Pearson")
    if min(target.shape[1:]) < SSIM_WINDOW:
        notes.append(f"image is smaller than SSIM's window of {SSIM_WINDOW} pixels: no SSIM")
    values = _moments(prediction, target, span) | {"ssim": _ssim(prediction, target, span)}
    return Measurement(values=values, notes=notes)


def _moments(prediction: np.ndarray, target: np.ndarray, span: float) -> dict[str, float]:
    """Everything that follows from sums over pixels; centred first, slice by slice."""
    mean_p, mean_t = prediction.mean(dtype=np.float64), target.mean(dtype=np.float64)
    pp = tt = pt = squared = absolute = 0.0
    for slice_p, slice_t in zip(prediction, target, strict=True):
        p, t = slice_p.astype(np.float64) - mean_p, slice_t.astype(np.float64) - mean_t
        error = p - t + (mean_p - mean_t)
        pp, tt, pt = pp + np.sum(p * p), tt + np.sum(t * t), pt + np.sum(p * t)
        squared, absolute = squared + np.sum(error * error), absolute + np.sum(np.abs(error))
    defined_p, defined_t = prediction.max() > prediction.min(), span > 0
    mse = squared / target.size
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(np.float64(span**2) / mse) if defined_t else np.nan
    return {
        "pearson": float(pt / np.sqrt(pp * tt)) if defined_p and defined_t else np.nan,
        "psnr": float(psnr),
        "mse": float(mse),
        "mae": float(absolute / target.size),
        "r2": float(1 - squared / tt) if defined_t else np.nan,
    }


def _ssim(prediction: np.ndarray, target: np.ndarray, span: float) -> float:
    """Mean over z of the 2-D SSIM; SciPy's filters release the interpreter, so slices run side by side."""
    if span == 0 or min(target.shape[1:]) < SSIM_WINDOW:
        return np.nan

    def one_slice(z: int) -> float:
        return structural_similarity(
            target[z].astype(np.float64),
            prediction[z].astype(np.float64),
            data_range=span,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )

    with ThreadPoolExecutor(min(SSIM_THREADS, os.cpu_count() or 1)) as pool:
        return float(np.mean(list(pool.map(one_slice, range(len(target))))))
