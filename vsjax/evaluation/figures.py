"""Pictures of a report: each metric per position, and source, target and prediction side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from vsjax.errors import shorten
from vsjax.evaluation.level import Metric, Row
from vsjax.evaluation.report import replacing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito
DPI = 160
MAX_LABELS = 16
MAX_PIXELS = 512  # of a larger fov a part is shown, so that a cell stays visible
MAX_CHANNELS = 12  # a legend of more says nothing
FIGURE_PIXELS = 1.2e7  # of a picture's file: its dots per inch become fewer where it would have more
MIN_CELL, MAX_CELL = 0.4, 3.0  # height of an image in a figure, times its width
View = tuple[slice, slice]
STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Panel:
    """One row of a figure: 2-D images `[Y, X]` of the same slice; target and prediction in the same units.

    Contrast is set by the whole images, so that the noise of an empty part is not blown up; `view` is drawn.
    """

    label: str
    source: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    pixel_size_um: tuple[float, float]  # y, x
    view: View = (slice(None), slice(None))


def plot_metrics(path: Path, rows: Sequence[Row], metrics: Mapping[str, Metric]) -> None:
    """A dot per stack: metric against position, a colour per channel, a dashed line at each channel's mean; of many
    channels the first."""
    found = list(dict.fromkeys(row["channel"] for row in rows))
    channels = found[:MAX_CHANNELS]
    rows = [row for row in rows if row["channel"] in channels]
    positions = list(dict.fromkeys(row["position"] for row in rows))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    with matplotlib.rc_context(STYLE):
        figure = make_figure(3.4 * columns + 0.4, 2.5 * lines + 0.7)
        axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
        for axis, (name, metric) in zip(axes, metrics.items(), strict=False):
            _strip(axis, rows, name, positions, channels)
            axis.set_title(metric.label, loc="left", fontweight="bold")
        for axis in axes[len(metrics) :]:
            axis.set_visible(False)
        for axis in axes[-columns:]:
            _label_positions(axis, positions)
        handles, labels = axes[0].get_legend_handles_labels()
        units = f"units: {', '.join(dict.fromkeys(row['units'] for row in rows))}"
        units += f" · the first {len(channels)} of {len(found)} channels" if len(found) > len(channels) else ""
        figure.supxlabel(units, fontsize=8, color="0.35")
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(channels), 6), markerscale=1.3)
        _save(figure, path)


def plot_calibration(path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], units: str) -> None:
    """The error that was found against the spread that claimed it, a line per name (of many the first); on the dashed
    line they are equal, above it the prediction is too sure of itself."""
    shown = dict(list(curves.items())[:MAX_CHANNELS])
    values = np.array([value for curve in shown.values() for part in curve for value in part])
    with matplotlib.rc_context(STYLE):
        figure = make_figure(4.2, 4.6)
        axis = figure.subplots()
        if values.size and (values > 0).all():
            axis.set(xscale="log", yscale="log")
        for index, (name, (spread, error)) in enumerate(shown.items()):
            color = COLORS[index % len(COLORS)]
            axis.plot(spread, error, "o-", color=color, markersize=4, linewidth=1.2, label=label(name), zorder=3)
        ends = (values.min(), values.max()) if values.size else (0, 1)
        axis.plot(ends, ends, color="0.35", linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        axis.set(xlabel="spread", ylabel="root mean square error", aspect="equal")
        axis.grid(color="0.92", linewidth=0.7)
        figure.supxlabel(f"units: {units}", fontsize=8, color="0.35")
        if shown:
            figure.legend(loc="outside upper center", ncols=min(len(shown), 3))
        _save(figure, path)


def plot_panels(path: Path, channel: str, source_name: str, panels: Sequence[Panel], caption: str) -> None:
    """Rows of source, target, prediction and difference.

    Target and prediction share one contrast, the target's 1st to 99.8th percentile, so that a pale prediction looks
    pale; the difference goes from blue to red over plus and minus half that range.
    """
    source_name, channel = label(source_name), label(channel)
    titles = [f"{source_name} (source)", f"{channel} (target)", f"{channel} (prediction)", "prediction − target"]
    cell = 2.7 * cell_aspect(panels[0].target[panels[0].view].shape, panels[0].pixel_size_um)
    with matplotlib.rc_context(STYLE):
        figure = make_figure(4 * 2.7 + 1.1, len(panels) * cell + 0.7)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
        axes = figure.subplots(len(panels), 4, squeeze=False)
        for row, panel in zip(axes, panels, strict=True):
            _draw_panel(row, panel)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        figure.supxlabel(caption, fontsize=8, color="0.35")
        _save(figure, path)


def make_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, with at most `FIGURE_PIXELS` pixels."""
    dpi = min(DPI, math.sqrt(FIGURE_PIXELS / (width * height)))
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def cell_aspect(shape: Sequence[int], pixel_size_um: Sequence[float]) -> float:
    """Height of an image's place in a figure, times its width: the image's own (Y, X), within what can be looked at.
    What is more extreme is drawn smaller in its place."""
    aspect = shape[0] * pixel_size_um[0] / (shape[1] * pixel_size_um[1])
    return min(max(aspect, MIN_CELL), MAX_CELL)


def label(name: str, at_most: int = 40) -> str:
    """A channel's or position's name as it can be drawn: short, and no formula."""
    return shorten(name, at_most).replace("$", r"\$")


def slice_to_show(target: np.ndarray) -> int:
    """The z slice of `[Z, Y, X]` with the greatest contrast; of equal ones the middlemost."""
    spread = np.nan_to_num([plane.std(dtype=np.float64) for plane in target])
    middle = (len(spread) - 1) / 2
    return min(np.flatnonzero(spread >= 0.999 * spread.max()), key=lambda z: abs(z - middle))


def view_to_show(image: np.ndarray, at_most: int = MAX_PIXELS) -> View:
    """The part of an image, at most so many pixels wide and high, with the greatest contrast: the middle, a corner or
    halfway between; of equal ones the middle."""
    starts = [[max(0, n - at_most) // 2, 0, max(0, n - at_most)] for n in image.shape]
    views = [(slice(y, y + at_most), slice(x, x + at_most)) for y in starts[0] for x in starts[1]]
    return views[int(np.argmax([np.nan_to_num(image[view].std(dtype=np.float64)) for view in views]))]


def scale_bar_um(width_um: float) -> float:
    """Length of the scale bar for an image so wide: 1, 2 or 5 times a power of ten, at most a third of the width."""
    power = 10.0 ** np.floor(np.log10(width_um / 3))
    return float(power * max(step for step in (1, 2, 5) if step * power <= width_um / 3 * (1 + 1e-9)))


def draw_scale_bar(axis: Axes, shape: tuple[int, int], pixel_size_um: float) -> None:
    """A white bar with its length in µm at the lower right of an image of `shape` (Y, X); pixel size in X."""
    height, width = shape
    length_um = scale_bar_um(width * pixel_size_um)
    length = length_um / pixel_size_um
    right, bottom = width * 0.96, height * 0.95
    outline = [withStroke(linewidth=3.5, foreground="black")]
    axis.plot([right - length, right], [bottom, bottom], color="white", linewidth=2.5, solid_capstyle="butt",
              path_effects=[withStroke(linewidth=4, foreground="black")])  # fmt: skip
    axis.text(right - length / 2, bottom - 0.02 * height, f"{length_um:g} µm", color="white", ha="center", va="bottom",
              fontsize=9, fontweight="bold", path_effects=outline)  # fmt: skip
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def contrast_limits(image: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Robust contrast limits; a constant or non-finite image gets some that can be drawn."""
    finite = image[np.isfinite(image)]
    bottom, top = (float(v) for v in np.percentile(finite, [low, high])) if finite.size else (0.0, 1.0)
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def _strip(axis: Axes, rows: Sequence[Row], name: str, positions: Sequence[str], channels: Sequence[str]) -> None:
    place = {position: index for index, position in enumerate(positions)}
    values = np.array([row[name] for row in rows], dtype=np.float64)
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) == len(values) and positive.max() > 50 * positive.min():
        axis.set_yscale("log")  # channels in raw units of their own
    for index, channel in enumerate(channels):
        members = [row for row in rows if row["channel"] == channel]
        shift = 0.5 * (index - (len(channels) - 1) / 2) / max(len(channels), 1)
        x = np.array([place[row["position"]] + shift for row in members])
        y = np.array([row[name] for row in members], dtype=np.float64)
        finite = np.isfinite(y)
        color = COLORS[index % len(COLORS)]
        axis.scatter(x[finite], y[finite], s=22, color=color, alpha=0.85, linewidths=0, label=label(channel), zorder=3)
        if finite.any():
            axis.axhline(y[finite].mean(), color=color, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7, zorder=2)
    axis.set_xlim(-0.6, len(positions) - 0.4)
    axis.grid(axis="y", color="0.92", linewidth=0.7)
    axis.tick_params(axis="x", length=0)


def _label_positions(axis: Axes, positions: Sequence[str]) -> None:
    step = -(-len(positions) // MAX_LABELS)
    names = [label(name, 20) for name in positions[::step]]
    crowded = sum(map(len, names)) > 36
    axis.set_xticks(range(0, len(positions), step), names, rotation=60 if crowded else 0,
                    ha="right" if crowded else "center", rotation_mode="anchor" if crowded else None)  # fmt: skip


def _draw_panel(axes: Sequence[Axes], panel: Panel) -> None:
    low, high = contrast_limits(panel.target, 1, 99.8)
    half = (high - low) / 2
    images = (
        (panel.source, "gray", contrast_limits(panel.source, 0.5, 99.5)),
        (panel.target, "gray", (low, high)),
        (panel.prediction, "gray", (low, high)),
        (panel.prediction - panel.target, "RdBu_r", (-half, half)),
    )
    aspect = panel.pixel_size_um[0] / panel.pixel_size_um[1]
    for axis, (image, cmap, limits) in zip(axes, images, strict=True):
        shown = axis.imshow(image[panel.view], cmap, vmin=limits[0], vmax=limits[1], aspect=aspect)
    bar = axes[3].figure.colorbar(shown, ax=axes[3], shrink=0.8, pad=0.02, aspect=18, ticks=MaxNLocator(5))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel("\n".join(map(label, panel.label.split("\n"))), fontsize=9)
    draw_scale_bar(axes[0], panel.source[panel.view].shape, panel.pixel_size_um[1])


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
