"""Pictures of a network's features: each stage as colours, beside what the network sees and predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from vsjax.evaluation.feature_maps import principal_components, to_rgb
from vsjax.evaluation.figures import STYLE, cell_aspect, contrast_limits, draw_scale_bar, label, make_figure
from vsjax.evaluation.report import replacing

CELL = 2.3  # inches


@dataclass(frozen=True)
class Picture:
    """One image of the figure: `[Y, X]` in gray or `[Y, X, 3]` in colour."""

    title: str
    pixels: np.ndarray


def picture_stage(name: str, features: np.ndarray, at: int, depth: int) -> Picture:
    """A stage's components as colours; of features with a depth of their own the slice nearest to the one shown."""
    components, shares = principal_components(_same_depth(features, at, depth) if features.ndim == 4 else features)
    return Picture(f"{name}\n{_size(features)}, {shares[:3].sum():.0%}", to_rgb(components))


def picture_slices(volume: np.ndarray, names: Sequence[str], at: int, depth: int) -> list[Picture]:
    """Each channel of `[Z', Y, X, C]`, the middle slices of `depth`, as it is at slice `at` of these."""
    nearest = min(max(at - (depth - len(volume)) // 2, 0), len(volume) - 1)
    return [Picture(f"{name}\n{_size(volume)}", volume[nearest, ..., i]) for i, name in enumerate(names)]


def _same_depth(volume: np.ndarray, at: int, depth: int) -> np.ndarray:
    """Of a coarser `[Z', Y, X, C]` over the same depth the slice that holds slice `at` of `depth`."""
    return volume[(2 * at + 1) * volume.shape[0] // (2 * depth)]


def _size(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape))


def draw(
    path: Path,
    rows: Sequence[Sequence[Picture]],
    pixel_size_um: tuple[float, float],
    shape: tuple[int, int],
    about: str,
) -> None:
    """Input and encoder above, decoder and prediction below; all cover the same `shape` (Y, X) pixels."""
    columns = max(len(row) for row in rows)
    height = CELL * cell_aspect(shape, pixel_size_um)
    with matplotlib.rc_context(STYLE):
        figure = make_figure(columns * CELL, len(rows) * (height + 0.5) + 0.3)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            for axis, picture in zip(line, row, strict=False):
                _draw_picture(axis, picture, pixel_size_um, shape)
            for axis in line[len(row) :]:
                axis.set_visible(False)
        draw_scale_bar(axes[0, 0], shape, pixel_size_um[1])
        figure.supxlabel(
            f"{label(about, 200)}; per cent: variance of the three components shown", fontsize=6, color="0.35"
        )
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def _draw_picture(axis: Axes, picture: Picture, pixel_size_um: tuple[float, float], shape: tuple[int, int]) -> None:
    low, high = contrast_limits(picture.pixels, 0.5, 99.5) if picture.pixels.ndim == 2 else (None, None)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    aspect = pixel_size_um[0] / pixel_size_um[1]
    axis.imshow(picture.pixels, "gray", vmin=low, vmax=high, extent=extent, aspect=aspect, interpolation="nearest")
    axis.set_title("\n".join(map(label, picture.title.split("\n"))), fontsize=7)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
