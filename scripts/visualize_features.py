"""What the stages of a trained network see, as colours: principal components of its features (Liu et al. 2025, "Model
visualization", Figures S6, S10 and S12).

    python scripts/visualize_features.py --checkpoint runs/a --input P.zarr --position A/1/0 --output features.png

Red, green and blue are a stage's first three components, each scaled by its own range; the title says how much of the
stage's variance they hold."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsjax.errors import UserError
from vsjax.evaluation.feature_maps import capture_features, principal_components, to_rgb
from vsjax.evaluation.figures import DPI, STYLE, contrast_limits, draw_scale_bar
from vsjax.evaluation.report import replacing
from vsjax.inference.prediction_step import source_normalization
from vsjax.inference.predictor import Predictor
from vsjax.intensity.normalization import patch_location_scale
from vsjax.models.registry import build_model
from vsjax.plates.arrays import read
from vsjax.plates.position import Position
from vsjax.plates.reader import open_plate
from vsjax.plates.step import ImageInfo
from vsjax.program import run_program
from vsjax.runtime.checkpoint import load_checkpoint

CROP = 512
CELL = 2.3  # inches
DECODER = ("decoder", "up_")


@dataclass(frozen=True)
class Picture:
    """One image of the figure: `[Y, X]` in gray or `[Y, X, 3]` in colour."""

    title: str
    pixels: np.ndarray


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compute one window, and draw."""
    options = _parser().parse_args(arguments)
    output = Path(options.output)
    if output.exists() and not options.overwrite:
        raise UserError(f"{output}: exists; choose another --output, or --overwrite")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.absolute().parent}; make it or choose another --output")
    checkpoint = load_checkpoint(options.checkpoint)
    predictor = Predictor(checkpoint)
    settings = dict(checkpoint.description.config["model"])
    model = build_model(settings.pop("name"), **settings)
    plate = open_plate(options.input)
    position = plate[options.position or plate.position_names[0]]
    z = position.shape[2] // 2 if options.z is None else options.z
    window, at = read_window(position, predictor, options.source or predictor.source_channels, z, options.crop)
    stages = options.stages or model.stages
    features, prediction = capture_features(model, checkpoint.variables, window, stages)
    depth = window.shape[1]
    above = [Picture(f"{predictor.source_channels[0]}\n{_size(window[0])}", window[0, at, ..., 0])]
    below = []
    for name in stages:
        (below if name.startswith(DECODER) else above).append(picture_stage(name, features[name], at, depth))
    predicted = at - (depth - len(prediction)) // 2  # fewer slices than it sees: the middle ones
    shown = prediction[min(max(predicted, 0), len(prediction) - 1)]
    for index, channel in enumerate(predictor.target_channels):
        below.append(Picture(f"{channel} (prediction)\n{_size(prediction)}", shown[..., index]))
    about = f"{position.url}, z = {z}; {options.checkpoint}"
    draw(output, (above, below), position.pixel_size_um[1:], window.shape[2:4], about)
    print(f"{len(stages)} stages of {options.checkpoint} into {output}")


def read_window(
    position: Position, predictor: Predictor, channels: Sequence[str], z: int, crop: Sequence[int] | None
) -> tuple[np.ndarray, int]:
    """The slices around `z` that the network sees, the middle of the field, normalised as for prediction.

    Returns:
        `[1, Z, Y, X, C]` float32 and the place of `z` in it.

    Raises:
        UserError: the position is too small, `z` is outside, or a channel or its statistics are missing.
    """
    if len(channels) != len(predictor.source_channels):
        raise UserError(f"--source: the model takes {len(predictor.source_channels)} channels, not {len(channels)}")
    indices = [position.channel_index(channel) for channel in channels]
    depth, rows, columns = position.shape[2:]
    if depth < predictor.in_depth:
        raise UserError(f"{position.url}: has {depth} slices (Z) but the network needs {predictor.in_depth}")
    if not 0 <= z < depth:
        raise UserError(f"{position.url}: has slices 0 to {depth - 1}; --z {z} must be one of them")
    start = min(max(z - predictor.in_depth // 2, 0), depth - predictor.in_depth)
    limits = (crop or (CROP, CROP), (rows, columns), predictor.compiled.divisor)
    sizes = [min(wanted, size) // divisor * divisor for wanted, size, divisor in zip(*limits, strict=True)]
    if 0 in sizes:
        raise UserError(f"{position.url}: --crop must be at least {predictor.compiled.divisor}, the network's divisor, "
                        f"in a field of {(rows, columns)}")  # fmt: skip
    y, x = (rows - sizes[0]) // 2, (columns - sizes[1]) // 2
    part = position.array()[0, indices, start : start + predictor.in_depth, y : y + sizes[0], x : x + sizes[1]]
    stack = np.moveaxis(np.asarray(read(part.read(), position.url), np.float32), 0, -1)
    location, scale = source_normalization(predictor, ImageInfo.of(position), indices, time=0)
    if location is None:  # the model normalises every patch by itself
        location, scale = map(np.asarray, patch_location_scale(stack[None], predictor.normalization.statistic))
    return ((stack - location) / scale)[None], z - start


def picture_stage(name: str, features: np.ndarray, at: int, depth: int) -> Picture:
    """A stage's components as colours; of features with a depth of their own the slice nearest to the one shown."""
    components, shares = principal_components(_same_depth(features, at, depth) if features.ndim == 4 else features)
    return Picture(f"{name}\n{_size(features)}, {shares[:3].sum():.0%}", to_rgb(components))


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
    """Input and encoder above, decoder and prediction below; all cover the same field of `shape` (Y, X) pixels."""
    columns = max(len(row) for row in rows)
    height = CELL * shape[0] * pixel_size_um[0] / (shape[1] * pixel_size_um[1])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * CELL, len(rows) * (height + 0.5) + 0.3), dpi=DPI, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            for axis, picture in zip(line, row, strict=False):
                _draw_picture(axis, picture, pixel_size_um, shape)
            for axis in line[len(row) :]:
                axis.set_visible(False)
        draw_scale_bar(axes[0, 0], shape, pixel_size_um[1])
        figure.supxlabel(f"{about}; per cent: variance of the three components shown", fontsize=6, color="0.35")
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def _draw_picture(axis: Axes, picture: Picture, pixel_size_um: tuple[float, float], shape: tuple[int, int]) -> None:
    low, high = contrast_limits(picture.pixels, 0.5, 99.5) if picture.pixels.ndim == 2 else (None, None)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    aspect = pixel_size_um[0] / pixel_size_um[1]
    axis.imshow(picture.pixels, "gray", vmin=low, vmax=high, extent=extent, aspect=aspect, interpolation="nearest")
    axis.set_title(picture.title, fontsize=7)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw a network's features as colours.")
    parser.add_argument("--checkpoint", required=True, help="folder of a run or of converted weights")
    parser.add_argument("--input", required=True, help="OME-Zarr plate or image")
    parser.add_argument("--position", metavar="A/1/0", help="by default the first")
    parser.add_argument("--output", required=True, help="PNG to write")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="such as encoder_0 decoder/stage_1 (all)")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="the plate's names of the model's source channels")
    parser.add_argument("--z", type=int, help="slice to show (the middle)")
    parser.add_argument("--crop", nargs=2, type=int, metavar=("Y", "X"), help=f"pixels, of the middle ({CROP} {CROP})")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture that is there")
    return parser


if __name__ == "__main__":
    run_program("visualize_features", main)
