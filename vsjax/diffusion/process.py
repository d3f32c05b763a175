"""The process that turns images into noise, what a network is asked to give, and one step back (Palette, Saharia et al.
2022, arXiv:2111.05826; Ho et al. 2020).

`noisy = sqrt(gamma) clean + sqrt(1 - gamma) noise`. gamma is a scalar or `[B]` for images `[B, ...]`. As a float or a
NumPy array it keeps its digits: 1 - gamma of Palette's first step is 1.3 % off in float32.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vsjax.diffusion.schedule import ScheduleSettings, gammas
from vsjax.errors import UserError

Parameterization = Literal["eps", "x0", "v"]
Gamma = Array | np.ndarray | float

LEAST_GAMMA = 1e-12  # at which an error of the predicted noise is a million times as large in the image
LEAST_GAMMA_BEFORE_LAST = 1e-30  # still a number in float32
LEAST_VARIANCE = 1e-20  # of a step back, as the authors clip it


class Posterior(NamedTuple):
    """One step back given the clean image: mean `clean * y_0 + noisy * y_t` and variance, float64 as `gammas`."""

    clean: np.ndarray
    noisy: np.ndarray
    log_variance: np.ndarray


def check_process(schedule: ScheduleSettings, parameterization: Parameterization) -> None:
    """Raise `UserError` if a network cannot learn this parameterization on this schedule."""
    left = gammas(schedule)
    if parameterization == "eps" and left[-1] < LEAST_GAMMA:
        raise UserError(
            f"config.task.process.parameterization: is eps, but the last of {schedule.steps} steps leaves "
            f"{left[-1]:.0e} of the image, which cannot be told from the noise; use v or x0, or a schedule with "
            f"zero_terminal_snr False that adds less noise"
        )
    if left[-2] < LEAST_GAMMA_BEFORE_LAST:
        raise UserError(
            f"config.task.process.schedule: {left[-2]:.0e} of the image is left before the last of {schedule.steps} "
            f"steps; give fewer steps or a smaller end"
        )


def noised(clean: Array, noise: Array, gamma: Gamma) -> Array:
    """The image with noise at this level: `y_t` of `y_0` and standard normal noise of its shape."""
    signal, spread = _factors(gamma, clean)
    return signal * clean + spread * noise


def output_of(kind: Parameterization, clean: Array, noise: Array, gamma: Gamma) -> Array:
    """What the network should give: the noise, the clean image, or v (Salimans and Ho 2022, arXiv:2202.00512)."""
    if kind == "eps":
        return noise
    if kind == "x0":
        return clean
    signal, spread = _factors(gamma, clean)
    return signal * noise - spread * clean


def clean_of(kind: Parameterization, output: Array, noisy: Array, gamma: Gamma) -> Array:
    """The clean image that the network's output implies; for eps gamma must be above 0 (`check_process`)."""
    if kind == "x0":
        return output
    signal, spread = _factors(gamma, noisy)
    if kind == "eps":
        return (noisy - spread * output) / signal
    return signal * noisy - spread * output


def noise_of(clean: Array, noisy: Array, gamma: Gamma) -> Array:
    """The noise that lies between a clean and a noisy image; 0 at gamma 1, where there is none."""
    signal, spread = _factors(gamma, noisy)
    return jnp.where(spread > 0, (noisy - signal * clean) / jnp.where(spread > 0, spread, 1), 0)


def clamp(clean: Array, low: Array | float | None, high: Array | float | None) -> Array:
    """Limited to the range of the data as it was normalised: numbers, or `[C]` for the last axis. None is no limit.

    The authors' code limits z-scored data to [-1, 1], which cuts off every bright structure.
    """
    return jnp.clip(clean, low, high)


def draw_gamma(key: Array, gammas: Array | np.ndarray, samples: int) -> Array:
    """Noise levels to train at, float32 `[samples]`: a step t drawn uniformly, gamma uniformly between it and the last.

    As the authors' code, t is one of 2 ... T: between no noise and the first step nothing is drawn.
    """
    which, where = jax.random.split(key)
    steps = jax.random.randint(which, (samples,), 1, len(gammas))
    levels = jnp.asarray(gammas, jnp.float32)
    before, after = levels[steps - 1], levels[steps]
    return before + (after - before) * jax.random.uniform(where, (samples,))


def posterior(levels: np.ndarray, before: np.ndarray | None = None) -> Posterior:
    """The Gaussian of `y_s` given `y_t` and `y_0` (Ho et al. 2020, equations 6 and 7).

    levels: gamma_t, `[N]`. before: gamma_s of the less noisy level that the step leads to, 1 for the image itself; by
    default the one before in `levels`. The variance is clipped from below at 1e-20, as the authors do.
    """
    levels = np.asarray(levels, np.float64)
    before = np.append(1.0, levels[:-1]) if before is None else np.asarray(before, np.float64)
    alpha = levels / before
    beta = 1 - alpha
    variance = beta * (1 - before) / (1 - levels)
    return Posterior(
        clean=beta * np.sqrt(before) / (1 - levels),
        noisy=(1 - before) * np.sqrt(alpha) / (1 - levels),
        log_variance=np.log(np.maximum(variance, LEAST_VARIANCE)),
    )


def _factors(gamma: Gamma, image: Array) -> tuple[Array, Array]:
    """`sqrt(gamma)` and `sqrt(1 - gamma)` in float32, of a shape that broadcasts against an image `[B, ...]`."""
    if isinstance(gamma, jax.Array):
        gamma, root = gamma.astype(jnp.float32), jnp.sqrt
    else:
        gamma, root = np.asarray(gamma, np.float64), np.sqrt
    gamma = gamma.reshape(gamma.shape + (1,) * (image.ndim - 1)) if gamma.ndim else gamma
    return jnp.asarray(root(gamma), jnp.float32), jnp.asarray(root(1 - gamma), jnp.float32)
