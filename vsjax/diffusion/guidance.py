"""What steers a sample: the class of the perturbation or the stain, and masks of the structures (DiffStain)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vsjax.diffusion.samplers import Denoise, Noise, SamplerSettings, renoised, sample, table_of

Find = Callable[[Array], Array]  # images [N, Y, X] of one stain each -> where its structures are, bool


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
    start: float | None = None,
    *,
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
    first, steps = (len(table_of(gammas, settings, share).gamma) for share in (start, fraction))
    clean = sample(denoise, noisy, gammas, settings, noise, start)

    def another(number: Array, clean: Array) -> Array:
        at = first + number * (steps + 1)
        noisy = renoised(segment(clean), noise(at), gammas, fraction)
        return sample(denoise, noisy, gammas, settings, lambda step: noise(at + 1 + step), fraction)

    return jax.lax.fori_loop(0, rounds, another, clean)


def find_structures(stains: Array, find: Find) -> Array:
    """Where the structures of stains `[B, Z, Y, X, C]` are, each stain's found by itself: bool, of the same shape."""

    def of_stain(stain: Array) -> Array:
        return find(stain.reshape(-1, *stain.shape[2:])).reshape(stain.shape)

    return jnp.stack([of_stain(stains[..., channel]) for channel in range(stains.shape[-1])], axis=-1)


def masked(stains: Array, inside: Array) -> Array:
    """Masks as images of the stains `[B, Z, Y, X, C]`: every pixel has the mean of its plane's structures, or of what
    lies beside them.

    The paper's masks are 0 and 1, the ends of its data's range; z-scored stains have no such ends. Where nothing or
    everything is found, the mean of the plane.
    """
    return jnp.where(inside, _mean(stains, inside), _mean(stains, ~inside))


def _mean(stains: Array, where: Array) -> Array:
    """Of each plane over some of its pixels, over all where there are none: `[B, Z, 1, 1, C]`."""
    where = where | ~where.any(axis=(2, 3), keepdims=True)
    return jnp.mean(stains, axis=(2, 3), keepdims=True, where=where)
