"""Masking as a step from a plate to a plate: an image with its channels as they are, and a label NAME_mask beside it
for each of those that are named (DiffStain, section 2.2)."""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from pydantic import Field

from vsjax.diffusion.clustering import ClusteringSettings, Segmentation, contrast, segment, tile_starts
from vsjax.diffusion.thresholds import ThresholdSettings, threshold_mask
from vsjax.errors import UserError
from vsjax.inference.feature_source import INTENSITY, FeatureSource, load_features
from vsjax.inference.volume import as_float32, check_finite
from vsjax.plates.arrays import read
from vsjax.plates.ngff import is_name
from vsjax.plates.position import Position
from vsjax.plates.reader import open_plate
from vsjax.plates.step import Derived, ImageInfo, Job, Result
from vsjax.schema import Document, Name, Names, parse

SUFFIX = "_mask"  # of the labels' names
_SECTIONS = {"clustering": ClusteringSettings, "threshold": ThresholdSettings}
_OF_CLUSTERING = ("features", "stage", "anchor", "seed")
_REMEDY = "mask or replace these pixels, or take another position"


class MaskSettings(Document):
    """How masks are made."""

    channels: Names = Field(description="of which masks are made")
    method: Literal["nsc", "threshold"] = Field("nsc", description="spectral clustering, or local thresholds")
    features: Name = Field(INTENSITY, description="a run, converted weights, or plain patches: what is clustered")
    stage: str = Field("", description="of the network whose output the features are; empty is its own choice")
    anchor: str = Field("", description="the position to which the clusters are matched; empty is the first")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of the starts of k-means")
    clustering: ClusteringSettings = ClusteringSettings()
    threshold: ThresholdSettings = ThresholdSettings()


def parse_settings(given: Mapping[str, Any]) -> MaskSettings:
    """The settings from those that are given by name, those of both sections among them; other names are ignored.

    Raises:
        UserError: one does not suit, or belongs to the other method.
    """
    sections = {
        name: {field: given[field] for field in kind.model_fields if field in given} for name, kind in _SECTIONS.items()
    }
    method = given.get("method", "nsc")
    other = "threshold" if method == "nsc" else "nsc"
    foreign = [*sections["threshold"]]
    if method == "threshold":
        foreign = [name for name in (*_OF_CLUSTERING, *sections["clustering"]) if name in given]
    if foreign:
        flag = foreign[0].replace("_", "-")
        raise UserError(f"--{flag}: belongs to --method {other}; leave it out, or choose that method")
    own = {name: given[name] for name in MaskSettings.model_fields if name in given}
    remedy = "see python -m vsjax.preprocess masks --help"
    return parse(MaskSettings, {**own, **sections}, "command line: masks", remedy)


class MaskStep:
    """A step (`plates.step`): all channels of an image, as they are, and the masks; coarser resolutions and labels of
    the old plate are left out. Each slice is masked by itself; all share the anchor, a tile of each channel.

    Args:
        settings: how.
        plate_url: the plate that holds the anchor, which is read here.

    Raises:
        UserError: the checkpoint or the anchor does not suit.
    """

    name = "masks"

    def __init__(self, settings: MaskSettings, plate_url: str) -> None:
        self._settings = settings
        self._device = threading.Lock()  # one slice at a time
        for channel in settings.channels:
            if not is_name(channel + SUFFIX):
                raise UserError(
                    f"--channels: {channel!r} gives no name of a label, which has letters, digits, '.', '_' and '-' "
                    "only; rename the channel"
                )
        self._source: FeatureSource | None = None
        if settings.method == "nsc":
            self._source = load_features(settings.features, settings.stage)
            self._source.check(settings.clustering.tile)
            plate = open_plate(plate_url)
            position = plate[settings.anchor] if settings.anchor else plate.first_position()
            self._anchor_name = position.name
            self._anchors = {name: read_anchor(position, name, self._source, self._tile) for name in settings.channels}
            self._program = jax.jit(partial(_segment, self._source, settings.clustering))

    @property
    def _tile(self) -> int:
        return self._settings.clustering.tile

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks depend on: of the weights not where they lie."""
        chosen = self._settings.model_dump(mode="json", include={"channels", "method"})
        if self._source is None:
            return {**chosen, "threshold": self._settings.threshold.model_dump(mode="json")}
        record = self._source.record.model_dump(mode="json", include={"name", "stage", "fingerprint"})
        clustering = self._settings.clustering.model_dump(mode="json")
        return {
            **chosen,
            "features": record,
            "anchor": self._anchor_name,
            "seed": self._settings.seed,
            "clustering": clustering,
        }

    @property
    def about(self) -> dict[str, Any]:
        """Which features."""
        return {} if self._source is None else {"features": self._source.record.model_dump(mode="json")}

    def derive(self, image: ImageInfo) -> Derived:
        """What masking an image gives. UserError where it lacks a channel or is smaller than a tile."""
        indices = {channel: image.channel_index(channel) for channel in self._settings.channels}
        if self._source is not None and min(image.shape[3:]) < self._tile:
            raise UserError(_too_small(image.url, image.shape[3:], self._tile))

        def apply(stack: np.ndarray, time: int, job: Job) -> Result:
            labels, found = {}, {}
            for channel, index in indices.items():
                volume = as_float32(stack[index])
                check_finite(volume[..., None], [channel], image.name, _REMEDY)
                masks, clusters = [], set()
                for plane in volume:
                    mask, numbers = self._mask(plane, channel)
                    masks.append(mask)
                    clusters |= numbers
                    job.progress(1 / (len(volume) * len(indices)))
                label = np.stack(masks)
                labels[channel + SUFFIX] = label.astype(np.int32)
                found[channel] = {"foreground": float(label.mean())}
                found[channel] |= {"clusters": len(clusters)} if clusters else {}
            return Result(pixels=stack, labels=labels, found=found)

        reads, names = tuple(range(image.shape[1])), tuple(channel + SUFFIX for channel in indices)
        return Derived(reads=reads, image=image, apply=apply, labels=names)

    def _mask(self, plane: np.ndarray, channel: str) -> tuple[np.ndarray, set[int]]:
        """The mask of a slice `[Y, X]`, and the numbers of the clusters that there are."""
        with self._device:
            if self._source is None:
                scale = plane.std() or 1
                mask = _threshold((plane - plane.mean()) / scale, self._settings.threshold)
                return np.asarray(mask), set()
            key = jax.random.key(self._settings.seed)
            result = self._program(self._source.variables, plane, self._anchors[channel], key)
            return np.asarray(result.mask), set(np.unique(result.labels).tolist())


def read_anchor(position: Position, channel: str, source: FeatureSource, tile: int) -> np.ndarray:
    """The tile `[tile, tile]` of a position's first time point and middle slice with most contrast, which
    shows both foreground and background; scaled as `source` wants it.

    Raises:
        UserError: the channel is missing, the position is too small, or its pixels are not finite.
    """
    index, shape = position.channel_index(channel), position.shape
    if min(shape[3:]) < tile:
        raise UserError(_too_small(position.url, shape[3:], tile))
    plane = as_float32(read(position.array()[0, index, shape[2] // 2].read(), position.url))
    check_finite(plane[..., None], [channel], position.url, _REMEDY)
    plane = np.asarray(jax.jit(source.scale)(plane[None])[0])
    corners = [(y, x) for y in tile_starts(shape[3], tile) for x in tile_starts(shape[4], tile)]
    differs = np.asarray(jax.jit(contrast, static_argnums=1)(plane, tile))
    y, x = max(corners, key=lambda corner: differs[corner[0] :, corner[1] :][:tile, :tile].std())
    return plane[y : y + tile, x : x + tile]


def _segment(
    source: FeatureSource, settings: ClusteringSettings, variables: Any, plane: Array, anchor: Array, key: Array
) -> Segmentation:
    """The mask and labels `[Y, X]` of one slice."""
    images = source.scale(plane[None])
    found = segment(images, partial(source.features, variables), anchor, key, settings)
    return Segmentation(found.mask[0], found.labels[0])


_threshold = jax.jit(threshold_mask, static_argnums=1)


def _too_small(url: str, plane: tuple[int, ...], tile: int) -> str:
    return f"{url}: has {tuple(plane)} pixels in Y and X, fewer than a tile; make --tile {min(plane)} or smaller"
