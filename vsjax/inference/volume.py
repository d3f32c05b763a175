"""What is asked of an array before a network sees it: pixels that are numbers, statistics that normalise them, memory.

And what follows from it: the statistics of the array itself, and how its windows are normalised.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.inference.windows import Prepare, WindowPlan
from vsjax.intensity.normalization import STATISTICS, Normalization, location_scale, normalize, patch_location_scale
from vsjax.intensity.statistics import compute_statistics
from vsjax.memory import check_memory

STATISTICS_GRID = 32  # distance of the pixels that `vsjax.preprocess` samples by default
STATISTICS_PIXELS = 512  # per side, of the planes from which "patch" normalisation takes its statistics


def as_volume(volume: Any) -> np.ndarray:
    """The array of what a caller gives.

    Raises:
        UserError: it is ragged, empty, or its pixels are no real numbers.
    """
    try:
        volume = np.asarray(volume)
    except (ValueError, TypeError) as error:  # nested lists of different lengths
        raise UserError(f"volume: is no array ({shorten(str(error))}); give numbers [Z, Y, X]") from error
    if not any(jnp.issubdtype(volume.dtype, kind) for kind in (jnp.integer, jnp.floating)):
        raise UserError(f"volume: its pixels are {volume.dtype}, not intensities; give integers or floating point")
    if volume.size == 0:
        raise UserError(f"volume: its shape {volume.shape} holds no pixels; give at least one along each axis")
    return volume


def check_fits(shape: Sequence[int], source: int, target: int) -> None:
    """UserError where the pixels [T, Z, Y, X, C] of an array of `source` channels, as float32 and normalised, and its
    prediction of `target` channels exceed the memory."""
    times, *stack = (int(n) for n in shape[:4])
    needed = 4 * math.prod(stack) * (2 * source + times * target)
    check_memory(f"volume: its shape {tuple(shape)}, with its prediction,", needed, "give a part of it")


def check_finite(volume: np.ndarray, channels: Sequence[str], what: str, remedy: str) -> None:
    """UserError that counts the pixels [..., C] that are not finite, as float32 holds them."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(as_float32(volume).sum()):  # of which one makes the sum so; quick, and nearly always enough
            return
    for index, channel in enumerate(channels):
        pixels = as_float32(volume[..., index])
        if missing := pixels.size - int(np.isfinite(pixels).sum()):
            raise UserError(
                f"channel {shorten(channel)!r}: {missing} of {pixels.size} pixels of {what} are NaN or infinite "
                f"(float32 ends at 3.4e38); {remedy}"
            )


def as_float32(pixels: Any) -> np.ndarray:
    """float32; infinite beyond its range, which `check_finite` finds."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(pixels, np.float32)


def given_statistics(
    statistics: Mapping[str, Mapping[str, float]], channels: Sequence[str], statistic: str
) -> list[Mapping[str, float]]:
    """Of each channel, the two numbers that normalise it, out of those that a caller gives.

    Raises:
        UserError: they are no mappings, a channel is missing, or an entry is no number.
    """
    if not isinstance(statistics, Mapping):
        raise UserError(f"statistics: is {shorten(repr(statistics))}; give a mapping of channel to its statistics")
    found = []
    for channel in channels:
        if channel not in statistics:
            there = shorten(", ".join(map(str, statistics)), 300)
            raise UserError(f"statistics: channel {channel!r} is missing; there are {there}")
        entries = statistics[channel]
        if not isinstance(entries, Mapping):
            raise UserError(
                f"statistics[{channel!r}]: is {shorten(repr(entries))}; give a mapping such as {{'mean': 1}}"
            )
        for name in STATISTICS[statistic]:
            value = entries.get(name, 0.0)
            if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
                raise UserError(f"statistics[{channel!r}][{name!r}]: is {shorten(repr(value))}; give a number")
            if isinstance(value, numbers.Rational) and abs(value) > float(np.finfo(np.float32).max):  # of any size
                raise UserError(f"statistics[{channel!r}][{name!r}]: is beyond what float32 holds; rescale the volume")
        found.append(entries)
    return found


def find_location_scale(
    stacks: np.ndarray,
    channels: Sequence[str],
    normalization: Normalization,
    statistics: Mapping[str, Mapping[str, float]] | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Location and scale [C] that normalise an array [T, Z, Y, X, C]; None where the model does so by the patch.

    Raises:
        UserError: a channel is constant or not finite, or its given statistics are not usable.
    """
    if normalization.scope == "patch":
        return None, None
    if normalization.scope == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    known = None if statistics is None else given_statistics(statistics, channels, normalization.statistic)
    check_finite(stacks, channels, "the image", "mask or replace these pixels")
    if known is None:
        known = [_statistics_of(stacks[..., index]) for index in range(len(channels))]
    where = "of the volume" if statistics is None else "in `statistics`"
    pairs = [
        location_scale(entries, normalization.statistic, f"{channel} {where}")
        for channel, entries in zip(channels, known, strict=True)
    ]
    location, scale = as_float32(pairs).T
    for channel, at, by in zip(channels, location, scale, strict=True):
        if not (np.isfinite(at) and np.isfinite(by)):
            raise UserError(f"channel {channel!r}: its statistics {where} are beyond what float32 holds; rescale it")
    return location, scale


def _statistics_of(image: np.ndarray) -> Mapping[str, float]:
    """Of every 32nd pixel, which gives the numbers that `vsjax.preprocess` writes for a field of view; of every pixel
    where the image is so small that few would be left."""
    return compute_statistics(image, STATISTICS_GRID if min(image.shape[-2:]) >= 4 * STATISTICS_GRID else 1)


_patch_statistics = jax.jit(patch_location_scale, static_argnums=1)


def normalize_windows(stack: np.ndarray, plan: WindowPlan, normalization: Normalization) -> Prepare:
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
