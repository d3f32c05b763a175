"""What the stages of a network see: the features of each, reduced to three principal components and shown as colours.

Liu et al. 2025, "Model visualization": every XY pixel of a stage's output is a sample, its dimensions the channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vsjax.errors import UserError
from vsjax.inference.prediction_step import source_normalization
from vsjax.inference.predictor import Predictor
from vsjax.inference.volume import as_float32, check_finite
from vsjax.intensity.normalization import patch_location_scale
from vsjax.models.features import stage_outputs
from vsjax.models.network import Network
from vsjax.plates.arrays import read
from vsjax.plates.position import Position
from vsjax.plates.step import ImageInfo

COMPONENTS = 8  # as in the paper; the first three are shown
CROP = 512  # pixels in Y and X, unless the user wants others
LIMITS = (1, 99)  # percentiles of a component that become black and full colour: a border's few pixels do not decide
_NO_SIGNAL = 1e-10  # of the total variance: a component with less is rounding


def read_window(
    position: Position, predictor: Predictor, channels: Sequence[str], z: int, crop: Sequence[int] | None
) -> tuple[np.ndarray, int]:
    """The slices around `z` that the network sees, the middle of the field, normalised as for prediction.

    Returns:
        `[1, Z, Y, X, C]` float32 and the place of `z` in it.

    Raises:
        UserError: the position is too small, `z` is outside, a channel or its statistics are missing, or its pixels are
            not finite.
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
                        f"in a field of view of {(rows, columns)}")  # fmt: skip
    y, x = (rows - sizes[0]) // 2, (columns - sizes[1]) // 2
    part = position.array()[0, indices, start : start + predictor.in_depth, y : y + sizes[0], x : x + sizes[1]]
    stack = np.moveaxis(as_float32(read(part.read(), position.url)), 0, -1)
    check_finite(stack, channels, position.url, "mask or replace these pixels, or take another position")
    location, scale = source_normalization(predictor, ImageInfo.of(position), indices, time=0)
    if location is None:  # the model normalises every patch by itself
        location, scale = map(np.asarray, patch_location_scale(stack[None], predictor.normalization.statistic))
    return ((stack - location) / scale)[None], z - start


def capture_features(
    model: Network, variables: Any, window: np.ndarray, stages: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Apply a network once and keep what its stages put out.

    Args:
        model, variables: the network.
        window: `[1, Z, Y, X, C]`, normalised.
        stages: modules by their path, such as "encoder_0" or "decoder/stage_1"; any module with an output will do.

    Returns:
        The features of each stage, `[Y, X, C]` or `[Z, Y, X, C]` at the stage's own resolution, and the prediction
        `[Z', Y, X, C']`, float32.

    Raises:
        UserError: the network has no such stage, or one puts out what is not finite.
    """
    outputs, prediction = jax.jit(lambda v, x: stage_outputs(model, v, x, stages))(variables, window)
    features = {}
    for name in stages:
        features[name] = np.asarray(outputs[name][0], np.float32)
        if not np.isfinite(features[name]).all():
            raise UserError(f"--stages {name}: is NaN or infinite, so the checkpoint's training diverged; take another")
    return features, np.asarray(prediction[0], np.float32)


def principal_components(features: np.ndarray, count: int = COMPONENTS) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of a feature map, each pixel a sample.

    Args:
        features: `[Y, X, C]`.
        count: how many.

    Returns:
        The components `[Y, X, count]`, by falling variance, and each one's share of the total variance `[count]`; zeros
        where the features have fewer dimensions. The sign makes each component's largest weight positive.
    """
    samples = features.reshape(-1, features.shape[-1]).astype(np.float64)
    centred = samples - samples.mean(axis=0)
    variances, weights = np.linalg.eigh(centred.T @ centred)
    variances, weights = variances[::-1][:count], weights[:, ::-1][:, :count]
    total = np.square(centred).sum()
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)
    signal = variances > _NO_SIGNAL * total
    components = np.where(signal, centred @ (weights * np.sign(largest)), 0)
    shares = np.where(signal, variances, 0) / (total or 1)
    missing = count - len(variances)
    components, shares = np.pad(components, ((0, 0), (0, missing))), np.pad(shares, (0, missing))
    return components.reshape(*features.shape[:-1], count).astype(np.float32), shares


def to_rgb(components: np.ndarray) -> np.ndarray:
    """The first three components `[Y, X, count]` as red, green and blue `[Y, X, 3]` in [0, 1], each by its own range;
    a constant one is black."""
    shown = components[..., :3].astype(np.float64)
    low, high = np.percentile(shown, LIMITS, axis=(0, 1))
    scale = np.where(high > low, high - low, np.inf)
    return np.clip((shown - low) / scale, 0, 1)
