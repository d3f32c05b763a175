"""From a checkpoint to predictions of NumPy arrays: `vsjax.load("runs/a").predict(volume)`."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from vsjax.data.roles import MetadataRole
from vsjax.errors import UserError, shorten
from vsjax.inference.axes import from_tzyxc, resolve_axes, to_tzyxc
from vsjax.inference.companions import FEATURES, START, with_companions
from vsjax.inference.compiled import CompiledFamily, Draw
from vsjax.inference.framing import Framing, Group, filled, group_stacks
from vsjax.inference.results import mean_and_spread, target_units
from vsjax.inference.settings import PredictionSettings
from vsjax.inference.tiling import Padding, Tile, choose_margin, largest_tile, plan_tiles, predict_tiles
from vsjax.inference.tta import Tta, with_rotations
from vsjax.inference.volume import (
    as_float32,
    as_volume,
    check_finite,
    check_fits,
    find_location_scale,
    normalize_windows,
)
from vsjax.inference.windows import plan_windows, predict_windows, windows_per_call
from vsjax.models.registry import MODELS
from vsjax.runtime.checkpoint import Checkpoint, load_checkpoint
from vsjax.runtime.keys import step_key
from vsjax.schema import parse

BATCH_PIXELS = 1 << 18  # windows are batched up to so many pixels of a plane: enough to keep a device busy
SPREAD = "spread"  # of a channel over several draws: its name's ending


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
        target_statistics: of the training plates, by channel; empty where they are not known.
        tta: the test-time augmentation that the experiment asks for.
        sampler: the family's own settings with their defaults; None if it has none.
        label_role: where a plate says an image's class, for a model that heeds it; None if it does not.
        compiled: what predicts, compiled once per shape.
        checkpoint: path, step and fingerprint, to tell which weights made a prediction.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Prepare the checkpoint's model.

        Raises:
            UserError: the weights are not those of the model in the checkpoint's configuration, or of a part of it, or
                its description lacks a field or names other channels.
        """
        if not isinstance(checkpoint, Checkpoint):
            raise UserError(f"checkpoint: is a {type(checkpoint).__name__}; take vsjax.load(RUN)")
        description = checkpoint.description
        if description.parts != "all":
            name = description.config["model"]["name"]
            use = f"train with it first: --config.init.checkpoint=... --config.init.load={description.parts}"
            use = "take it for features" if MODELS[name].predicts_by is None else use
            raise UserError(
                f"{checkpoint.path}: holds only the {description.parts} of {name}, which predicts nothing; {use}"
            )
        self.compiled = CompiledFamily(checkpoint)
        for role in ("source", "target"):
            if role not in description.channels:
                raise UserError(f"{checkpoint.path}: the description lacks the role {role!r}; train or convert again")
            names = description.channels_of(role)
            wanted = self.compiled.in_channels if role == "source" else self.compiled.out_channels
            if len(names) != wanted:
                raise UserError(
                    f"{checkpoint.path}: description.channels.{role} names {len(names)} channels "
                    f"({shorten(', '.join(names))}) but the network has {wanted}; train or convert again"
                )
        self.source_channels = description.channels_of("source")
        self.target_channels = description.channels_of("target")
        self.pixel_size_um = description.pixel_size_um
        self.normalization = description.channels["source"].normalization
        self.target_statistics = description.statistics
        self.target_location, self.target_scale = target_units(checkpoint) or (None, None)
        self.in_depth = self.compiled.in_depth
        self.tta: Tta = description.config.get("predict", {}).get("tta", "none")
        self.sampler = self.compiled.family.sampler
        self.label_role = None
        if self.compiled.family.classes:
            where = f"{checkpoint.path}: config.roles.label"
            self.label_role = parse(MetadataRole, description.config["roles"]["label"], where, "train again")
        self._with_other_samplers: dict[Any, CompiledFamily] = {}
        self._device = threading.Lock()  # one stack at a time: two would need twice the memory
        self.checkpoint = {
            "path": checkpoint.path,
            "step": description.step,
            "fingerprint": self.compiled.fingerprint,
        }

    def predict(
        self,
        volume: np.ndarray,
        settings: PredictionSettings | None = None,
        *,
        axes: str | None = None,
        statistics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> np.ndarray:
        """Predict the target channels of an array.

        Args:
            volume: raw intensities, at least `in_depth` slices deep. `[Z, Y, X]` where the model has one source
                channel, `[Z, Y, X, C]` or `[C, Z, Y, X]` otherwise (told apart by the number of source channels),
                `[T, C, Z, Y, X]`; `[Y, X]` where the model takes single slices.
            settings: how; by default as the experiment's config says.
            axes: what the axes are, in any order, such as "ZYX" or "TZYXC", where the shape does not tell.
            statistics: channel name -> `{"mean": .., "std": .., "median": .., "iqr": ..}` that normalise it, in the
                layout of the `normalization` attribute. By default those of this volume itself, over all of its time
                points (per time point if the model was trained so), which is right for models trained with FOV or time
                point statistics. A model trained with statistics of the *dataset* expects those of the plate that the
                volume comes from: pass them.

        Returns:
            float32 array with the input's axes and the target channels in the place of the source channels; they come
            last where the input has no channel axis (`[Z, Y, X]` gives `[Z, Y, X, C]`). Of several draws the channels
            are the means and then the spreads, or (`keep="draws"`) the draws are a further, first axis.

        Raises:
            UserError: the volume is no array of intensities, its shape does not suit the model or the memory, it is
                constant or not finite, or the settings, axes or statistics are none that can be had.
        """
        settings = PredictionSettings() if settings is None else settings
        self.check(settings)
        if self.extra_channels(settings):
            raise UserError("sampler: masks=given takes the labels of a plate; call vsjax.predict with --masks")
        volume = as_volume(volume)
        axes = resolve_axes(volume.shape, axes, len(self.source_channels))
        stacks = to_tzyxc(volume, axes)
        if stacks.shape[-1] != len(self.source_channels):
            raise UserError(
                f"volume: axis C of shape {volume.shape} has {stacks.shape[-1]} channels but the model takes "
                f"{len(self.source_channels)}: {', '.join(self.source_channels)}"
            )
        kept = settings.draws if settings.keep == "draws" else min(settings.draws, 2)
        check_fits(stacks.shape, len(self.source_channels), kept * len(self.target_channels))
        plan_windows(stacks.shape[1], self.in_depth, self.compiled.out_depth, settings.z_step)  # deep enough
        parts = [stacks] if self.normalization.scope != "timepoint" else np.split(stacks, len(stacks))
        found = [find_location_scale(part, self.source_channels, self.normalization, statistics) for part in parts]
        pairs = [pair for part, pair in zip(parts, found, strict=True) for _ in part]
        predictions = [
            self.predict_stack(stack, *pair, settings, time=time)
            for time, (stack, pair) in enumerate(zip(stacks, pairs, strict=True))
        ]
        if settings.draws > 1 and settings.keep == "draws":
            return np.stack([from_tzyxc(draw, axes) for draw in np.stack(predictions, axis=1)])
        return from_tzyxc(np.stack(predictions), axes)

    def extra_channels(self, settings: PredictionSettings) -> int:
        """Channels that the sampler wants behind the source's: masks."""
        return self._compiled(settings).family.in_channels - len(self.source_channels)

    def check(self, settings: PredictionSettings) -> None:
        """Raise a UserError that names the first setting that cannot be had with this model."""
        if not isinstance(settings, PredictionSettings):
            raise UserError(f"settings: is a {type(settings).__name__}; give PredictionSettings(...)")
        settings.check()
        if settings.draws > 1 and not self.compiled.family.draws:
            raise UserError(
                f"draws is {settings.draws}, but {self.checkpoint['path']} gives the same prediction each time; "
                "leave it at 1"
            )
        if type(settings.sampler) not in (type(None), type(self.sampler)):
            raise UserError(f"sampler is {settings.sampler!r}; this model's is like {self.sampler!r}")
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
        *,
        group: Group | None = None,
        name: str = "",
        time: int = 0,
        label: int | None = None,
    ) -> np.ndarray:
        """Predict one stack at one time point.

        Args:
            stack: [Z, Y, X, C], raw intensities, the model's source channels in order; behind them, for a sampler with
                masks=given, a mask of each stain.
            location, scale: [C], what normalises it; None where the model normalises every patch by itself.
            settings: how.
            on_progress: called with the fractions of the stack that were computed since the last call.
            group: this stack's among others; `settings` are then what `resolve` gave for it.
            name, time: of the position and time point; what is drawn depends on them.
            label: the number of the image's class, for a model that heeds one; None for no class.

        Returns:
            [Z, Y, X, C'] float32 in `settings.units`; [draws, Z, Y, X, C'] where all of several draws are kept.

        Raises:
            UserError: the stack is too shallow, or the stack or its prediction is not finite.
        """
        stack = as_float32(stack)
        check_finite(stack, self.source_channels, "the image", "mask or replace these pixels")
        if group is None:
            settings = self.resolve(stack.shape, settings)
        framed = group is not None and group.has_frames(settings.space)
        root = step_key(settings.seed, f"stack {name}", time)

        def progress(fraction: float) -> None:
            if on_progress is not None:
                on_progress(fraction / settings.draws)

        def draw(number: int) -> np.ndarray:
            one = Draw(key=jax.random.fold_in(root, number), space=settings.space, label=label)
            prediction = self._predict_draw(stack, location, scale, settings, one, progress, framed)
            check_finite(prediction, self.target_channels, "the prediction", "the checkpoint's training diverged")
            return self._in_units(prediction) if settings.units == "target" else prediction

        if settings.draws == 1:
            return draw(0)
        if settings.keep == "draws":
            return np.stack([draw(number) for number in range(settings.draws)])
        return mean_and_spread(draw(number) for number in range(settings.draws))

    def _in_units(self, prediction: np.ndarray) -> np.ndarray:
        """The target's own intensities."""
        with np.errstate(over="ignore", invalid="ignore"):
            prediction = prediction * self.target_scale + self.target_location
        remedy = "the checkpoint's statistics of this channel are too large: take units 'normalized'"
        check_finite(prediction, self.target_channels, "the prediction in units 'target'", remedy)
        return prediction

    def _predict_draw(
        self,
        stack: np.ndarray,
        location: np.ndarray | None,
        scale: np.ndarray | None,
        settings: PredictionSettings,
        draw: Draw,
        on_progress: Callable[[float], None],
        framed: bool,
    ) -> np.ndarray:
        """One normalised prediction [Z, Y, X, C'], with settings that `resolve` has filled in."""
        plan = plan_windows(stack.shape[0], self.in_depth, self.compiled.out_depth, settings.z_step)
        if location is None:
            prepare = normalize_windows(stack, plan, self.normalization)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                stack, prepare = stack - location, None
                stack /= scale
            check_finite(stack, self.source_channels, "the normalised image", "give statistics that suit its pixels")
        padding = Padding.to_divisor(stack.shape[1:3], self._divisor(settings.tta, settings.space))
        padded = padding.pad(stack)
        tiles = self._tiles(padded.shape[1:3], settings)
        framing = Framing(tiles[0].shape, settings.tile if framed else tiles[0].shape)
        apply = with_rotations(partial(self._apply, settings, draw, framing if framed else None), settings.tta)
        apply = filled(apply, settings.batch_size)
        together, windows = windows_per_call(plan, len(tiles), settings.batch_size)
        total = len(plan.starts) * math.ceil(len(tiles) / together) * together

        def predict(volumes: np.ndarray, corners: Sequence[tuple[int, int]]) -> np.ndarray:
            corners = [(y - padding.y[0], x - padding.x[0]) for y, x in corners]
            volumes, on_batch = framing.put(volumes), lambda count: on_progress(count / total)
            return framing.take(predict_windows(apply, volumes, corners, plan, windows, prepare, on_batch))

        with self._device:
            prediction = predict_tiles(predict, padded, tiles, together)
        return padding.crop(prediction)

    def _apply(
        self,
        settings: PredictionSettings,
        draw: Draw,
        framing: Framing | None,
        windows: np.ndarray | jax.Array,
        origins: np.ndarray,
        turns: int,
    ) -> jax.Array:
        region = None if framing is None else framing.region(turns)
        return self._compiled(settings)(windows, origins, draw, turns, region)

    def _compiled(self, settings: PredictionSettings) -> CompiledFamily:
        """What predicts with the settings' sampler; each is compiled once."""
        sampler = settings.sampler
        if sampler in (None, self.sampler):
            return self.compiled
        if sampler not in self._with_other_samplers:
            self._with_other_samplers[sampler] = self.compiled.with_sampler(sampler)
        return self._with_other_samplers[sampler]

    def _tiles(self, plane: tuple[int, int], settings: PredictionSettings) -> list[Tile]:
        tile = tuple(map(min, settings.tile, plane))
        margin, ramp = choose_margin(settings.margin, self._compiled(settings).receptive_radius, tile)
        return plan_tiles(plane, settings.tile, self.compiled.divisor, margin, ramp)

    def complete(self, settings: PredictionSettings) -> PredictionSettings:
        """The settings with rotations and sampler as the checkpoint says where they leave them open."""
        return replace(settings, tta=settings.tta or self.tta, sampler=settings.sampler or self.sampler)

    def group(
        self, stack: tuple[int, int, int], others: Iterable[tuple[int, int, int]], settings: PredictionSettings
    ) -> Group:
        """The group of a stack (Z, Y, X) among those that are predicted with these settings, if it is one of them."""
        settings = self.complete(settings)
        divisor = self._divisor(settings.tta, settings.space or 1)

        def padded(shape: tuple[int, int, int]) -> tuple[int, int, int]:
            return shape[0], *(math.ceil(n / d) * d for n, d in zip(shape[1:], divisor, strict=True))

        others = frozenset(map(padded, others)) if stack in others else frozenset({padded(stack)})
        groups = group_stacks(others, self._compiled(settings).family.framed)
        return next(group for group in groups if padded(stack)[1:] in group.planes)

    def resolve_group(self, group: Group, settings: PredictionSettings) -> PredictionSettings:
        """`resolve` for all stacks of a group, which are then predicted by one program."""
        return self.resolve((group.depth, *group.frame), settings, framed=group.framed)

    def resolve(
        self, shape: tuple[int, ...], settings: PredictionSettings, *, framed: bool = False
    ) -> PredictionSettings:
        """Fill in what `settings` leave open (rotations, sampler, tile, batch size, space) for stacks of `shape`
        [Z, Y, X, ...], by trying how much memory the network needs: whole on one device, then shared by all, then in
        tiles. `framed` stacks need not fill it."""
        settings = self.complete(settings)
        resolved = None not in (settings.tile, settings.batch_size, settings.space)  # once, and not anew
        plan = plan_windows(shape[0], self.in_depth, self.compiled.out_depth, settings.z_step)
        choices = [settings.space] if settings.space else sorted({1, jax.local_device_count()})
        for space in choices:
            divisor = self._divisor(settings.tta, space)
            plane = tuple(math.ceil(n / d) * d for n, d in zip(shape[1:3], divisor, strict=True))
            tile = tuple(min(a, b) for a, b in zip(settings.tile or plane, plane, strict=True))
            tile = tuple(math.ceil(t / d) * d for t, d in zip(tile, divisor, strict=True))
            chosen = replace(settings, tile=tile, space=space)
            usual = max(1, BATCH_PIXELS // (tile[0] * tile[1]))
            tiles = len(self._tiles(plane, chosen))
            batch_size = math.prod(windows_per_call(plan, tiles, settings.batch_size or usual))
            if settings.tile and len(choices) == 1 and (batch_size <= usual or resolved):
                return replace(chosen, batch_size=batch_size)
            size = (self.in_depth, *tile, self._compiled(settings).family.in_channels)
            fits, fraction = self._compiled(settings).fits((batch_size, *size), space, framed and space == 1)
            if not fits and batch_size > usual:  # a batch that the user chose without regard to the memory
                batch_size = math.prod(windows_per_call(plan, tiles, usual))
                fits, fraction = self._compiled(settings).fits((batch_size, *size), space, framed and space == 1)
            if fits:
                return replace(chosen, batch_size=batch_size)
        if settings.tile is None:
            margin = settings.margin or self._compiled(settings).receptive_radius or 0
            tile = largest_tile(plane, divisor, fraction, self.compiled.divisor, margin)
        return replace(settings, tile=tile, batch_size=batch_size, space=space)

    def _divisor(self, tta: Tta, space: int) -> tuple[int, int]:
        """What Y and X are padded to: each device gets as many rows, at every stride of the network; rotated by 90°,
        either must suit the other's divisor."""
        y, x = self.compiled.divisor
        return (y * space, x) if tta == "none" else (math.lcm(y * space, x),) * 2


def load(
    path: str | Path,
    which: Literal["best", "last"] | None = None,
    *,
    start: str | Path | None = None,
    features: str | Path | None = None,
) -> Predictor:
    """The predictor of a run's folder (`runs/a`), by default of its best checkpoint.

    Args:
        path: the run, or converted weights.
        which: the best or the last checkpoint.
        start: for a diffusion, a run whose stains it starts from.
        features: for a diffusion, a run or converted weights whose encoder finds the structures that guide it.

    Raises:
        UserError: there is no checkpoint, it is damaged, it is of another model, or one does not go with another.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"path: is {shorten(repr(path))}; give the folder of a run or of converted weights")
    companions = {START: start, FEATURES: features}
    found = {role: load_checkpoint(other) for role, other in companions.items() if other is not None}
    return Predictor(with_companions(load_checkpoint(path, which), found))
