"""From noise to an image, by one scan over the steps of any sampler.

Every sampler here is linear in what it has: the next image is a sum of the present one, of the clean estimate, of the
estimate before and of fresh noise. So a sampler is a table of four factors a step, computed in float64, and there is
one loop, compiled once.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field, model_validator

from vsjax.diffusion.process import noised, posterior
from vsjax.schema import Document, Share

Fraction = Annotated[float, Field(gt=0, le=1)]  # of the process, from the image on
Denoise = Callable[[Array, Array], Array]  # (noisy, gamma) -> clean estimate
Noise = Callable[[Array], Array]  # the number of the step, int32 -> standard normal of the image's shape


class SamplerSettings(Document):
    """How a sample is drawn."""

    method: Literal["ddpm", "ddim", "dpm++"] = "dpm++"
    steps: int = Field(25, ge=1, le=10_000, description="calls of the network, at most the schedule's below the start")
    spacing: Literal["time", "logsnr"] | None = Field(
        None,
        description="of the noise levels: even in the steps of the process, as ddpm and ddim have it where this "
        "is None, or in the logarithm of signal over noise, as dpm++ has it",
    )
    eta: Share = Field(0.0, description="fresh noise of ddim: 0 is none, 1 that of ddpm")

    @model_validator(mode="after")
    def _eta_is_of_ddim(self) -> Self:
        if self.eta and self.method != "ddim":
            raise ValueError(f"eta is {self.eta}, but method is {self.method}; only ddim has it")
        return self


class Table(NamedTuple):
    """Row k: the estimate is made at `gamma[k]`; the next image is `noisy * y + clean * estimate + previous * (the
    estimate before) + noise * fresh`. float64 `[steps]` each."""

    gamma: np.ndarray
    noisy: np.ndarray
    clean: np.ndarray
    previous: np.ndarray
    noise: np.ndarray


def sample(
    denoise: Denoise,
    noisy: Array,
    gammas: np.ndarray,
    settings: SamplerSettings,
    noise: Noise,
    start: float | None = None,
) -> Array:
    """The clean image that a sampler makes of a noisy one; pure, and to be compiled by the caller.

    denoise: `(noisy, gamma) -> clean`, gamma a float32 scalar; the estimate of the clean image, guided and clamped by
    the caller. noisy: `[B, ...]`, standard normal, or `renoised` at the same start. gammas: of `schedule.gammas`.
    noise: fresh noise of the k-th step; called once, with a traced k, and not at all by a sampler that adds none.
    start: share of the process at which to begin (SDEdit, Meng et al. 2022, arXiv:2108.01073); None is all of it. The
    number of steps stays, so that they get finer.
    """
    table = table_of(gammas, settings, start)
    rows = Table(*(jnp.asarray(column, jnp.float32) for column in table))
    looks_back, is_random = table.previous.any(), table.noise.any()

    def step(carry: tuple[Array, Array | None], at: tuple[Array, Table]) -> tuple[tuple[Array, Array | None], None]:
        (image, before), (number, row) = carry, at
        estimate = denoise(image, row.gamma).astype(image.dtype)
        image = row.noisy * image + row.clean * estimate
        if looks_back:
            image += row.previous * before
        if is_random:
            image += row.noise * noise(number)
        return (image, estimate if looks_back else None), None

    noisy = jnp.asarray(noisy, jnp.float32)
    before = jnp.zeros_like(noisy) if looks_back else None
    (clean, _), _ = jax.lax.scan(step, (noisy, before), (jnp.arange(len(table.gamma)), rows))
    return clean


def renoised(image: Array, noise: Array, gammas: np.ndarray, fraction: float) -> Array:
    """An image or a mask in the data's range, with the noise of this share of the process: what `sample` with this
    `start` begins with (DiffStain, equation 2)."""
    return noised(image, noise, gammas[_steps_below(gammas, fraction) - 1])


def table_of(gammas: np.ndarray, settings: SamplerSettings, start: float | None = None) -> Table:
    """The factors of a sampler's steps on a schedule.

    "ddpm": the posterior between the levels that are visited; with all T steps of them the authors' reverse step, with
    its clipped variance and no noise at the last. "ddim": Song et al. 2021 (arXiv:2010.02502), equations 12 and 16.
    "dpm++": DPM-Solver++(2M), Lu et al. 2022 (arXiv:2211.01095), algorithm 2, of first order at the first step and at
    the last, which leads to no noise at all. Few steps that are even in time are wide where little noise is left and
    lose the finest structures: at 25 steps the standard deviation of those of .03 is 76 % too small, 1 % off where the
    steps are even in log-SNR.
    """
    levels = _levels(np.asarray(gammas, np.float64), settings, _steps_below(gammas, start))
    after = np.append(levels[1:], 1.0)
    back = posterior(levels, after)
    spread = np.exp(0.5 * back.log_variance)
    spread[-1] = 0.0
    zeros = np.zeros_like(levels)
    if settings.method == "ddpm":
        return Table(levels, back.noisy, back.clean, zeros, spread)
    spread = settings.eta * spread
    noisy = np.sqrt(np.maximum(1 - after - np.square(spread), 0) / (1 - levels))
    clean = np.sqrt(after) - noisy * np.sqrt(levels)
    if settings.method == "ddim":
        return Table(levels, noisy, clean, zeros, spread)
    previous = -clean * _half_ratio(levels)
    return Table(levels, noisy, clean - previous, previous, zeros)


def _half_ratio(levels: np.ndarray) -> np.ndarray:
    """`1 / (2 r)` of algorithm 2: half the step in log-SNR over the step before it; 0 where the order is one."""
    size = np.diff(_log_snr(levels))  # infinite at first where nothing of the image is left: then of first order too
    return np.concatenate([[0.0], size[1:] / (2 * size[:-1]), [0.0]])[: len(levels)]


def _log_snr(gammas: np.ndarray) -> np.ndarray:
    """`log(signal / noise)`, half of that of the variances; minus infinity at 0."""
    with np.errstate(divide="ignore"):
        return 0.5 * (np.log(gammas) - np.log1p(-gammas))


def _steps_below(gammas: np.ndarray, fraction: float | None) -> int:
    """How many of the process's steps lie in this share of it, at least one."""
    return len(gammas) if fraction is None else min(max(round(fraction * len(gammas)), 1), len(gammas))


def _levels(gammas: np.ndarray, settings: SamplerSettings, last: int) -> np.ndarray:
    """The gammas at which the network is called, from step `last` of the process down: `[steps]`, rising."""
    number = min(settings.steps, last)
    if (settings.spacing or ("logsnr" if settings.method == "dpm++" else "time")) == "time":
        return gammas[np.rint(last * np.arange(number, 0, -1) / number).astype(int) - 1]
    first = 1 if gammas[last - 1] == 0 else 0  # of nothing left there is no logarithm
    low = _log_snr(gammas[max(last - 1 - first, 0)])
    inner = 1 / (1 + np.exp(-2 * np.linspace(low, _log_snr(gammas[0]), number - first)))
    return np.append(np.zeros(first), inner)
