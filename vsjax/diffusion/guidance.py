"""What steers a sample: the class of the perturbation or the stain, and masks of the structures (DiffStain)."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from vsjax.diffusion.samplers import Denoise, Noise, SamplerSettings, renoised, sample, table_of


def class_guided(denoise_with: Denoise, denoise_without: Denoise, weight: Array | float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) of clean estimates with and without the class.

    weight: 0 is without, 1 with, more exaggerates the class (1 + w of the paper). On clean estimates and on estimates
    of the noise it is the same, since each is a linear function of the other. Clamp what comes out, not what goes in.
    """

    def denoise(noisy: Array, gamma: Array) -> Array:
        without = denoise_without(noisy, gamma)
        return without + weight * (denoise_with(noisy, gamma) - without)

    return denoise


def mask_guided(
    denoise: Denoise,
    noisy: Array,
    gammas: np.ndarray,
    settings: SamplerSettings,
    noise: Noise,
    segment: Callable[[Array], Array],
    rounds: Array | int,
    fraction: float,
) -> Array:
    """A sample, its mask, and a sample that starts from the mask with noise: `rounds` times (DiffStain, section 2.3).

    segment: the clean image -> its mask in the data's own range, of the same shape. rounds may be traced; 0 is the
    sample without mask. fraction: of the process, at which the mask gets its noise; the paper does not settle it. The
    others are as in `sample`; `noise` is asked for numbers that no round shares with another. With masks that are known
    beforehand there is nothing to repeat: `sample` from `renoised` is that.
    """
    first, steps = (len(table_of(gammas, settings, start).gamma) for start in (None, fraction))
    clean = sample(denoise, noisy, gammas, settings, noise)

    def another(number: Array, clean: Array) -> Array:
        at = first + number * (steps + 1)
        start = renoised(segment(clean), noise(at), gammas, fraction)
        return sample(denoise, start, gammas, settings, lambda step: noise(at + 1 + step), fraction)

    return jax.lax.fori_loop(0, rounds, another, clean)
