"""Normalisation of intensities: (x - location) / scale, channel by channel, and back.

Location and scale come from the statistics that `vsjax.preprocess` writes (scope "dataset", "fov" or "timepoint"), or
from the patch itself on the device (scope "patch"). Which pair serves which model: Liu et al. 2025; VSCyto3D uses the
dataset's median and interquartile range, VSCyto2D mean and standard deviation of each FOV for phase.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array
from pydantic import Field

from vsjax.errors import UserError
from vsjax.schema import Document

STATISTICS = {"mean_std": ("mean", "std"), "median_iqr": ("median", "iqr")}
LEAST_SCALE = 1e-30  # what is divided by less may not fit into float32
LEAST_SPREAD = 1e-6  # of the magnitude of the values: a smaller spread is float32 rounding, not signal


class Normalization(Document):
    """What is subtracted and divided by: `scope` says over which pixels, `statistic` which pair."""

    scope: Literal["dataset", "fov", "timepoint", "patch", "none"] = Field(
        "fov", description='over which pixels; "none": values stay as they are'
    )
    statistic: Literal["mean_std", "median_iqr"] = Field("median_iqr", description="what is subtracted, and divided by")


def location_scale(stats: Mapping[str, Any], statistic: str, channel: str = "") -> tuple[float, float]:
    """Location and scale from one channel's statistics (`{"mean": ..., "std": ..., "median": ..., "iqr": ...}`).

    channel: its name (and place), for the message. Raises `UserError` when an entry is missing or not finite, or when
    the spread is zero: a constant channel cannot be normalised and holds nothing to learn from.
    """
    where = f"channel {channel!r}: " if channel else ""
    location_name, scale_name = STATISTICS[statistic]
    if location_name not in stats or scale_name not in stats:
        raise UserError(
            f"{where}its statistics lack {location_name!r} or {scale_name!r}; make them anew with "
            "`python -m vsjax.preprocess --plate URL`"
        )
    location, scale = float(stats[location_name]), float(stats[scale_name])
    if not (math.isfinite(location) and math.isfinite(scale)):
        raise UserError(
            f"{where}{location_name} {location} and {scale_name} {scale} are not finite, so its pixels are NaN or "
            "infinite; leave this channel or position out, or repair it and run `python -m vsjax.preprocess` again"
        )
    if scale <= max(LEAST_SPREAD * abs(location), LEAST_SCALE):
        other = "; more than half of it may be one value: try statistic 'mean_std'" if statistic == "median_iqr" else ""
        raise UserError(
            f"{where}{scale_name} is {scale}, so it is constant and cannot be normalised; leave this channel or "
            f"position out{other}"
        )
    return location, scale


def normalize(x: Array, loc: Array, scale: Array) -> Array:
    """(x - loc) / scale: x `[B, Z, Y, X, C]`, loc and scale `[B, C]` -> `[B, Z, Y, X, C]` float32."""
    return (jnp.asarray(x, jnp.float32) - _spread_out(loc)) / _spread_out(scale)


def denormalize(x: Array, loc: Array, scale: Array) -> Array:
    """x * scale + loc, what `normalize` undoes: x `[B, Z, Y, X, C]`, loc and scale `[B, C]` -> float32."""
    return jnp.asarray(x, jnp.float32) * _spread_out(scale) + _spread_out(loc)


def patch_location_scale(x: Array, statistic: str) -> tuple[Array, Array]:
    """Location and scale `[B, C]` of each patch and channel of `[B, Z, Y, X, C]`, on the device and inside `jax.jit`.

    Unlike those of a whole channel, a patch's pixels may rightly be constant (empty background): its scale is then 1.
    """
    pixels = jnp.asarray(x, jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    if statistic == "mean_std":
        location, scale = jnp.mean(pixels, axis=1), jnp.std(pixels, axis=1)
    elif statistic == "median_iqr":
        first, location, third = jnp.percentile(pixels, jnp.asarray([25.0, 50.0, 75.0]), axis=1)
        scale = third - first
    else:
        raise UserError(f"normalization.statistic: {statistic!r} is not one of {', '.join(STATISTICS)}")
    return location, jnp.where(scale > LEAST_SPREAD * jnp.abs(location), scale, 1.0)


def _spread_out(numbers: Array) -> Array:
    """`[B, C]` -> `[B, 1, 1, 1, C]`."""
    return jnp.asarray(numbers, jnp.float32)[:, None, None, None, :]
