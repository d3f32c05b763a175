"""From a checkpoint to predictions of NumPy arrays: `vsjax.load("runs/a").predict(volume)`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np

from vsjax.errors import UserError
from vsjax.inference.axes import from_tzyxc, resolve_axes, to_tzyxc
from vsjax.inference.network import Network
from vsjax.inference.tiling import Padding, choose_margin, plan_tiles, predict_tiles
from vsjax.inference.tta import Tta, with_rotations
from vsjax.inference.windows import Prepare, WindowPlan, plan_windows, predict_windows
from vsjax.intensity.normalization import Normalization, location_scale, normalize, patch_location_scale
from vsjax.intensity.statistics import compute_statistics
from vsjax.runtime.checkpoint import Checkpoint, load_checkpoint

Units = Literal["normalized", "target"]
BATCH_PIXELS = 1 << 18  # windows are batched up to so many pixels of a plane: enough to keep a device busy
STATISTICS_GRID = 32  # distance of the pixels that `vsjax.preprocess` samples by default
STATISTICS_PIXELS = 512  # per side, of the planes from which "patch" normalisation takes its statistics


@dataclass(frozen=True)
class PredictionSettings:
    """How a stack is predicted.

    Attributes:
        tta: combine four rotations: "none", "mean" or "median".
        tile: (Y, X) pixels of a tile with its margins; None takes the whole field of view, or the largest tile that
            fits the device's memory.
        margin: neighbouring tiles overlap by twice this many pixels; None chooses, see `tiling.choose_margin`.
        z_step: slices from one z window to the next.
        batch_size: z windows per call of the network; None chooses by the size of the plane.
        space: devices of this process that share a plane, in Y, and stain it as one image; None takes one where the
            plane or `tile` fits it, otherwise all.
        units: "normalized" as trained, or "target": intensities of the target as its training plates store them.
    """

    tta: Tta = "none"
    tile: tuple[int, int] | None = None
    margin: int | None = None
    z_step: int = 1
    batch_size: int | None = None
    units: Units = "normalized"
    space: int | None = None

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot be."""
        for field, value, choices in (("tta", self.tta, get_args(Tta)), ("units", self.units, get_args(Units))):
            if value not in choices:
                raise UserError(f"{field} is {value!r}; it must be one of {', '.join(choices)}")
        numbers = {
            "z_step": self.z_step,
            "batch_size": self.batch_size,
            "space": self.space,
            "tile": self.tile and min(self.tile),
        }
        for field, value in numbers.items():
            if value is not None and value < 1:
                raise UserError(f"{field} is {value}; it must be at least 1")
        if (self.space or 1) > jax.local_device_count():
            raise UserError(f"space is {self.space}; this process has only {jax.local_device_count()} devices")
        if self.margin is not None and self.margin < 0:
            raise UserError(f"margin is {self.margin}; it must be at least 0")


class Predictor:
    """Stains volumes with a trained model.

    Attributes:
        source_channels: what the model sees, in this order.
        target_channels: what it predicts, in this order.
        in_depth: slices that it needs at least.
        normalization: how the source is normalised.
        pixel_size_um: (z, y, x) of the data that it was trained on.
        target_location, target_scale: what turns normalised predictions into the target's units, one per target; None
            where the checkpoint does not know the training plates' statistics (converted weights).
        tta: the test-time augmentation that the experiment asks for.
        checkpoint: path, step and fingerprint, to tell which weights made a prediction.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Prepare the checkpoint's model.

        Raises:
            UserError: the weights are not those of the model in the checkpoint's configuration, or of a part of it, or
                its description lacks a field.
        """
        description = checkpoint.description
        if description.get("parts", "all") != "all":
            raise UserError(
                f"{checkpoint.path}: holds only the {description['parts']} of {checkpoint.config['model']['name']}, "
                "which predicts nothing; train with it first: --config.init.checkpoint=... "
                f"--config.init.load={description['parts']}"
            )
        for field in ("source_channels", "target_channels", "normalization", "statistics"):
            if field not in description:
                raise UserError(f"{checkpoint.path}: the description lacks the field {field!r}; train or convert again")
        self.source_channels = tuple(description["source_channels"])
        self.target_channels = tuple(description["target_channels"])
        if not self.target_channels:
            raise UserError(
                f"{checkpoint.path}: a masked pre-training predicts no stain; train one from it, with "
                "--config.init.checkpoint and --config.init.load=encoder"
            )
        self.pixel_size_um = tuple(description.get("pixel_size_um") or ())
        self.normalization = Normalization(**description["normalization"]["source"])
        self._target_statistics = description["statistics"]
        self.target_location, self.target_scale = _target_units(checkpoint) or (None, None)
        self.network = Network(checkpoint)
        self.in_depth = self.network.in_depth
        self.tta: Tta = checkpoint.config.get("predict", {}).get("tta", "none")
        self.checkpoint = {
            "path": checkpoint.path,
            "step": description.get("step"),
            "fingerprint": self.network.fingerprint,
        }

    def predict(
        self,
        volume: np.ndarray,
        *,
        axes: str | None = None,
        statistics: Mapping[str, Mapping[str, float]] | None = None,
        tta: Tta | None = None,
        tile: tuple[int, int] | None = None,
        units: Units = "normalized",
        z_step: int = 1,
        batch_size: int | None = None,
        space: int | None = None,
    ) -> np.ndarray:
        """Predict the target channels of an array.

        Args:
            volume: raw intensities, at least `in_depth` slices deep. `[Z, Y, X]` where the model has one source
                channel, `[Z, Y, X, C]` or `[C, Z, Y, X]` otherwise (told apart by the number of source channels),
                `[T, C, Z, Y, X]`; `[Y, X]` where the model takes single slices.
            axes: what the axes are, in any order, such as "ZYX" or "TZYXC", where the shape does not tell.
            statistics: channel name -> `{"mean": .., "std": .., "median": .., "iqr": ..}` that normalise it, in the
                layout of the `normalization` attribute. By default those of this volume itself, over all of its time
                points (per time point if the model was trained so), which is right for models trained with FOV or time
                point statistics. A model trained with statistics of the *dataset* expects those of the plate that the
                volume comes from: pass them.
            tta: see `PredictionSettings`; by default what the experiment's `config.predict.tta` says.
            tile, units, z_step, batch_size, space: see `PredictionSettings`.

        Returns:
            float32 array with the input's axes and the target channels in the place of the source channels; they come
            last where the input has no channel axis (`[Z, Y, X]` gives `[Z, Y, X, C]`).

        Raises:
            UserError: the shape does not suit the model, or the volume is constant or not finite.
        """
        settings = PredictionSettings(tta or self.tta, tile, None, z_step, batch_size, units, space)
        self.check(settings)
        volume = np.asarray(volume)
        axes = resolve_axes(volume.shape, axes, len(self.source_channels))
        stacks = to_tzyxc(volume, axes)
        if stacks.shape[-1] != len(self.source_channels):
            raise UserError(
                f"volume: axis C of shape {volume.shape} has {stacks.shape[-1]} channels but the model takes "
                f"{len(self.source_channels)}: {', '.join(self.source_channels)}"
            )
        parts = [stacks] if self.normalization.level != "timepoint" else np.split(stacks, len(stacks))
        pairs = [pair for part in parts for pair in [self._location_scale(part, statistics)] * len(part)]
        predictions = [self.predict_stack(stack, *pair, settings) for stack, pair in zip(stacks, pairs, strict=True)]
        return from_tzyxc(np.stack(predictions), axes)

    def check(self, settings: PredictionSettings) -> None:
        """Raise a UserError that names the first setting that cannot be had with this model."""
        settings.check()
        if settings.units == "target" and self.target_location is None:
            raise UserError(
                f"{self.checkpoint['path']}: does not hold the statistics of {', '.join(self.target_channels)}, so "
                "units 'target' cannot be had; convert the weights again with --statistics PLATE.zarr, a plate with "
                "these channels that vsjax.preprocess has seen, or take units 'normalized'"
            )

    def predict_stack(
        self,
        stack: np.ndarray,
        location: np.ndarray | None,
        scale: np.ndarray | None,
        settings: PredictionSettings,
        on_progress: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """Predict one stack at one time point.

        Args:
            stack: [Z, Y, X, C], raw intensities, the model's source channels in order.
            location, scale: [C], what normalises it; None where the model normalises every patch by itself.
            settings: how.
            on_progress: called with the fractions of the stack that were computed since the last call.

        Returns:
            [Z, Y, X, C'] float32 in `settings.units`.

        Raises:
            UserError: the stack is too shallow, or the stack or its prediction is not finite.
        """
        stack = np.asarray(stack, np.float32)
        _check_finite(stack, self.source_channels, "the image", "mask or replace these pixels")
        plan = plan_windows(stack.shape[0], self.in_depth, self.network.out_depth, settings.z_step)
        if location is None:
            prepare = _normalize_windows(stack, plan, self.normalization)
        else:
            stack, prepare = (stack - location) / scale, None
        settings = self.resolve(stack.shape, settings)
        padding = Padding.to_divisor(stack.shape[1:3], self._divisor(settings.tta, settings.space))
        padded = padding.pad(stack)
        margin, ramp = choose_margin(settings.margin, self.network.receptive_radius, settings.tile)
        tiles = plan_tiles(padded.shape[1:3], settings.tile, self.network.divisor, margin, ramp)
        apply = with_rotations(partial(self.network, space=settings.space), settings.tta)
        total = len(plan.starts) * len(tiles)

        def on_batch(windows: int) -> None:
            if on_progress is not None:
                on_progress(windows / total)

        def predict(tile: np.ndarray) -> np.ndarray:
            return predict_windows(apply, tile, plan, settings.batch_size, prepare, on_batch)

        prediction = padding.crop(predict_tiles(predict, padded, tiles))
        _check_finite(prediction, self.target_channels, "the prediction", "the checkpoint's training diverged")
        if settings.units == "target":
            prediction = prediction * self.target_scale + self.target_location
        return prediction

    def resolve(self, shape: tuple[int, ...], settings: PredictionSettings) -> PredictionSettings:
        """Fill in what `settings` leave open (tile, batch size, space) for stacks of `shape` [Z, Y, X, C], by trying
        how much memory the network needs: whole on one device, then shared by all, then in tiles."""
        windows = len(plan_windows(shape[0], self.in_depth, self.network.out_depth, settings.z_step).starts)
        choices = [settings.space] if settings.space else sorted({1, jax.local_device_count()})
        for space in choices:
            divisor = self._divisor(settings.tta, space)
            plane = tuple(math.ceil(n / d) * d for n, d in zip(shape[1:3], divisor, strict=True))
            tile = tuple(min(a, b) for a, b in zip(settings.tile or plane, plane, strict=True))
            tile = tuple(math.ceil(t / d) * d for t, d in zip(tile, divisor, strict=True))
            batch_size = settings.batch_size or max(1, min(windows, BATCH_PIXELS // (tile[0] * tile[1])))
            if settings.tile and len(choices) == 1:
                return replace(settings, tile=tile, batch_size=batch_size, space=space)
            fits, fraction = self.network.fits((batch_size, self.in_depth, *tile, len(self.source_channels)), space)
            if fits:
                return replace(settings, tile=tile, batch_size=batch_size, space=space)
        if settings.tile is None:
            side = math.sqrt(plane[0] * plane[1] / fraction)
            margin = settings.margin or self.network.receptive_radius or 0
            smallest = [
                math.ceil((2 * max(margin, n) + n) / d) * d for n, d in zip(self.network.divisor, divisor, strict=True)
            ]
            tile = tuple(max(int(side // d) * d, s) for d, s in zip(divisor, smallest, strict=True))
            tile = tuple(min(t, n) for t, n in zip(tile, plane, strict=True))
        return replace(settings, tile=tile, batch_size=batch_size, space=space)

    def display_ranges(self, units: Units) -> list[tuple[float, float]] | None:
        """(low, high) per target for viewers: what 98% of the training targets' pixels lie within; None if unknown."""
        if not all({"p1", "p99"} <= set(self._target_statistics.get(name, ())) for name in self.target_channels):
            return None
        limits = np.array([[self._target_statistics[name][p] for p in ("p1", "p99")] for name in self.target_channels])
        if units == "normalized":
            limits = (limits - self.target_location[:, None]) / self.target_scale[:, None]
        return [(float(low), float(high)) for low, high in limits]

    def _divisor(self, tta: Tta, space: int) -> tuple[int, int]:
        """What Y and X are padded to: each device gets as many rows, at every stride of the network; rotated by 90°,
        either must suit the other's divisor."""
        y, x = self.network.divisor
        return (y * space, x) if tta == "none" else (math.lcm(y * space, x),) * 2

    def _location_scale(
        self, stacks: np.ndarray, statistics: Mapping[str, Mapping[str, float]] | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Location and scale [C] of an array [T, Z, Y, X, C]."""
        if self.normalization.level == "patch":
            return None, None
        if self.normalization.level == "none":
            return np.zeros(stacks.shape[-1], np.float32), np.ones(stacks.shape[-1], np.float32)
        pairs = []
        for index, channel in enumerate(self.source_channels):
            if statistics is not None and channel not in statistics:
                raise UserError(f"statistics: channel {channel!r} is missing; there are {', '.join(statistics)}")
            _check_finite(stacks[..., index : index + 1], (channel,), "the image", "mask or replace these pixels")
            known = _statistics_of(stacks[..., index]) if statistics is None else statistics[channel]
            pairs.append(location_scale(known, self.normalization.statistic, f"{channel} of the volume"))
        location, scale = np.array(pairs, np.float32).T
        return location, scale


def load(path: str | Path, which: Literal["best", "last"] | None = None) -> Predictor:
    """The predictor of a run's folder (`runs/a`), by default of its best checkpoint.

    Raises:
        UserError: there is no checkpoint, it is half written, or it is of another model.
    """
    return Predictor(load_checkpoint(path, which))


def _target_units(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray] | None:
    """Location and scale [C'] of the targets, from the statistics of the training dataset: at prediction there is no
    target image whose own statistics could be used. None where a target's statistics are not known."""
    normalization = Normalization(**checkpoint.description["normalization"]["target"])
    channels = checkpoint.description["target_channels"]
    if normalization.level == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    statistics = checkpoint.description["statistics"]
    if not set(channels) <= set(statistics):
        return None
    statistic, where = normalization.statistic, f"(description.statistics of {checkpoint.path})"
    pairs = [location_scale(statistics[name], statistic, f"{name} {where}") for name in channels]
    location, scale = np.array(pairs, np.float32).T
    return location, scale


def _statistics_of(image: np.ndarray) -> Mapping[str, float]:
    """Of every 32nd pixel, which gives the numbers that `vsjax.preprocess` writes for a field of view; of every pixel
    where the image is so small that few would be left."""
    return compute_statistics(image, STATISTICS_GRID if min(image.shape[-2:]) >= 4 * STATISTICS_GRID else 1)


_patch_statistics = jax.jit(patch_location_scale, static_argnums=1)


def _normalize_windows(stack: np.ndarray, plan: WindowPlan, normalization: Normalization) -> Prepare:
    """For models that normalise every patch by its own pixels: each z window by those of its whole field of view
    (sampled where it is large), which is the same for all tiles."""
    step = max(1, min(stack.shape[1:3]) // STATISTICS_PIXELS)
    sample = np.pad(stack[:, ::step, ::step], (plan.padding, (0, 0), (0, 0), (0, 0)), mode="edge")
    known = {
        start: jax.device_get(_patch_statistics(sample[None, start : start + plan.in_depth], normalization.statistic))
        for start in plan.starts
    }

    def prepare(windows: np.ndarray, starts: tuple[int, ...]) -> np.ndarray:
        location, scale = (np.concatenate([known[start][i] for start in starts]) for i in (0, 1))
        return np.asarray(normalize(windows, location, scale))

    return prepare


def _check_finite(volume: np.ndarray, channels: tuple[str, ...], what: str, remedy: str) -> None:
    """UserError that counts the pixels [..., C] that are not finite."""
    for index, channel in enumerate(channels):
        size = volume[..., index].size
        if missing := size - int(np.isfinite(volume[..., index]).sum()):
            raise UserError(f"channel {channel!r}: {missing} of {size} pixels of {what} are NaN or infinite; {remedy}")
