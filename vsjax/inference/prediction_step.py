"""Prediction as a step from image to image: all that is between a plate and the predictor."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vsjax.errors import UserError
from vsjax.inference.framing import Group
from vsjax.inference.predictor import SPREAD, Predictor
from vsjax.inference.record import Affine, CheckpointRecord, PredictionRecord, Resolved
from vsjax.inference.settings import PredictionSettings
from vsjax.intensity.normalization import location_scale
from vsjax.plates.arrays import read
from vsjax.plates.derived_record import parse_attribute
from vsjax.plates.ngff_write import display_window
from vsjax.plates.pixels import Pixels
from vsjax.plates.step import Derived, ImageInfo, Job, Result

SUFFIX = "_prediction"  # of the channels; what evaluation looks for


class PredictionStep:
    """Stains images: one float32 channel `TARGET_prediction` per target, and where several predictions are drawn a
    channel `TARGET_spread` too.

    Args:
        predictor: from `load`.
        settings: how to predict.
        source_channels: what the plate calls the model's source channels, where it has other names for them.
        masks: names of the labels that are the masks of the model's stains, for a sampler with masks=given.

    Raises:
        UserError: a setting cannot be had with this model, or other than its number of channels or masks are named.
    """

    name = "predict"

    def __init__(
        self,
        predictor: Predictor,
        settings: PredictionSettings,
        source_channels: Sequence[str] | None = None,
        masks: Sequence[str] = (),
    ) -> None:
        predictor.check(settings)
        if settings.draws > 1 and settings.keep != "mean_spread":
            raise UserError(
                f"keep is {settings.keep!r}: a plate holds the mean and the spread of draws; take mean_spread"
            )
        self._predictor = predictor
        self._settings = predictor.complete(settings)
        self._channels = list(source_channels or predictor.source_channels)
        if len(self._channels) != len(predictor.source_channels):
            raise UserError(
                f"--source names {len(self._channels)} channels but the model takes {len(predictor.source_channels)}: "
                f"{', '.join(predictor.source_channels)}"
            )

        self._masks = tuple(masks)
        wanted = predictor.extra_channels(self._settings)
        if len(self._masks) != wanted:
            raise UserError(
                f"--masks: names {len(self._masks)} labels where {wanted} are needed; give one of each stain with "
                "--sampler masks=given, and none without"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, the channels and how they are predicted."""
        weights = {"fingerprint": self._predictor.checkpoint["fingerprint"]}  # wherever they lie
        units = {name: affine.model_dump() for name, affine in self._normalization().items()}
        in_units = {"normalization": units} if self._settings.units == "target" else {}
        masks = {"mask_labels": list(self._masks)} if self._masks else {}
        channels = {"source_channels": self._channels, **masks}
        return {"checkpoint": weights, **channels, **self._settings.to_json(), **in_units}

    @property
    def about(self) -> dict[str, Any]:
        """What the pixels mean."""
        return PredictionRecord(
            checkpoint=CheckpointRecord(**self._predictor.checkpoint),
            source_channels=tuple(self._channels),
            units=self._settings.units,
            normalization=self._normalization(),
        ).about()

    def _normalization(self) -> dict[str, Affine]:
        """By target; unknown for converted weights, which evaluation then standardises."""
        predictor = self._predictor
        if predictor.target_location is None:
            return {}
        numbers = zip(predictor.target_channels, predictor.target_location, predictor.target_scale, strict=True)
        return {name: Affine(location=float(at), scale=float(scale)) for name, at, scale in numbers}

    def derive(self, image: ImageInfo) -> Derived:
        """What predicting an image needs and gives.

        Raises:
            UserError: a channel or its statistics are missing, or the stack is shallower than the network's input.
        """
        predictor = self._predictor
        reads = tuple(image.channel_index(channel) for channel in self._channels)
        times, _, depth, *_ = image.shape
        if depth < predictor.in_depth:
            raise UserError(
                f"{image.url}: the stack has {depth} slices (Z) but the network needs at least {predictor.in_depth} "
                "(in_stack_depth); take a deeper plate, or a checkpoint of a shallower network"
            )
        pairs = [source_normalization(predictor, image, reads, time) for time in range(times)]
        label, masks = self._label(image), [self._mask(image, name) for name in self._masks]

        def apply(stack: np.ndarray, time: int, job: Job) -> Result:
            stack, (location, scale) = np.moveaxis(stack, 0, -1), pairs[time]
            if masks:
                inside = [read(mask[time, 0].read(), image.url) > 0 for mask in masks]
                stack = np.concatenate([stack, np.stack(inside, axis=-1)], axis=-1)
                location, scale = (np.append(x, np.float32([y] * len(masks))) for x, y in ((location, 0), (scale, 1)))
            group = predictor.group(stack.shape[:3], job.stacks, self._settings)
            settings = self._resolve(group, job)
            prediction = predictor.predict_stack(
                stack, location, scale, settings, job.progress, group=group, name=image.name, time=time, label=label
            )
            return Result(pixels=np.moveaxis(prediction, -1, 0))

        return Derived(reads=reads, image=self._describe(image), apply=apply)

    def _describe(self, image: ImageInfo) -> ImageInfo:
        """What comes out: a channel axis is added where it is needed."""
        targets = self._predictor.target_channels
        names = [target + SUFFIX for target in targets]
        if self._settings.draws > 1:
            names += [f"{target}_{SPREAD}" for target in targets]
        windows = display_ranges(self._predictor, self._settings)
        times, _, *space = image.shape
        return image.with_new_pixels(
            shape=(times, len(names), *space),
            dtype=np.dtype(np.float32),
            channel_names=tuple(names),
            axes="".join(axis for axis in "tczyx" if axis in image.axes or (axis == "c" and len(names) > 1)),
            display=tuple(display_window(*window) for window in windows),
        )

    def _mask(self, image: ImageInfo, name: str) -> Pixels:
        """A label image; UserError where it is not there or has not the image's shape."""
        mask = image.label(name)
        if tuple(mask.shape[2:]) != image.shape[2:] or self._predictor.normalization.scope == "patch":
            raise UserError(
                f"{image.url}/labels/{name}: {tuple(mask.shape[2:])} pixels where the image has {image.shape[2:]}, or "
                "the model normalises patches; give masks of the image's size, to a model that normalises FOVs"
            )
        return mask

    def _label(self, image: ImageInfo) -> int | None:
        """The number of the image's class, as its well or the plate says it, where the model heeds one that the user
        does not choose."""
        role = self._predictor.label_role
        if role is None or self._settings.sampler.label:
            return None
        return role.number(image.find_attribute(role.metadata), image.url)

    def _resolve(self, group: Group, job: Job) -> PredictionSettings:
        """Tile, batch size and devices for a group of stacks: those that the first process that met one of them has
        recorded, since the free memory from which they follow may differ."""

        def choose() -> dict[str, Any]:
            chosen = self._predictor.resolve_group(group, self._settings)
            found = Resolved(tile=tuple(chosen.tile), batch_size=chosen.batch_size, space=chosen.space)
            return found.model_dump(mode="json")

        key = "x".join(map(str, (group.depth, *group.frame)))
        resolved = parse_attribute(Resolved, job.resolved(key, choose), "the output", f"vsjax.resolved.{key}")
        return replace(self._settings, **resolved.model_dump())


def display_ranges(predictor: Predictor, settings: PredictionSettings) -> list[tuple[float, float]]:
    """(low, high) per channel for viewers: what 98% of the training targets' pixels lie within, and for a spread a
    quarter of that; none if unknown."""
    known, names = predictor.target_statistics, predictor.target_channels
    if not all({"p1", "p99"} <= set(known.get(name, ())) for name in names):
        return []
    limits = np.array([[known[name][percentile] for percentile in ("p1", "p99")] for name in names])
    if settings.units == "normalized":
        limits = (limits - predictor.target_location[:, None]) / predictor.target_scale[:, None]
    ranges = [(float(low), float(high)) for low, high in limits]
    return ranges + ([(0.0, (high - low) / 4) for low, high in ranges] if settings.draws > 1 else [])


def source_normalization(
    predictor: Predictor, image: ImageInfo, channels: Sequence[int], time: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Location and scale [C] of one stack, from the plate's statistics of the scope that the model was trained with;
    None where the model normalises every patch by itself.

    Raises:
        UserError: the statistics are missing.
    """
    scope, statistic = predictor.normalization.scope, predictor.normalization.statistic
    if scope == "patch":
        return None, None
    if scope == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    pairs = []
    for channel in channels:
        statistics = image.statistics(channel, scope, time)
        pairs.append(location_scale(statistics, statistic, f"{image.channel_names[channel]} of {image.url}"))
    location, scale = np.array(pairs, np.float32).T
    return location, scale
