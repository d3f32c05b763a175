"""Random changes of the source's intensities: gamma, contrast, offset, illumination, blur, noise.

All take one sample `[Z, Y, X, C]` of normalised data, which is centred on zero. `dm_pix.adjust_gamma` and
`random_gamma` expect values in [0, 1]: the power of a negative number is not a number, and clipping would flatten half
of z-scored data. `dm_pix.gaussian_blur` has one sigma for both axes, and takes 12 times as long on a CPU
(`scripts/bench_dm_pix.py`). So neither is used.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vsjax.data.augment_config import AugmentConfig
from vsjax.data.spatial_augmentation import smooth_field

_DRAWS = ("gamma", "scale", "offset", "illumination", "blur", "noise")  # each has its own random key


def transform(key: Array, image: Array, config: AugmentConfig) -> Array:
    """Apply one sample's random intensity transforms to `[Z, Y, X, C]`, in the order of `AugmentConfig`."""
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(_DRAWS)}
    if config.gamma_probability:
        happens, exponent = _draw(keys["gamma"], config.gamma_probability, *config.gamma_range)
        image = jnp.where(happens, adjust_gamma(image, exponent), image)
    if config.intensity_scale_probability:
        spread = config.intensity_scale_range
        happens, factor = _draw(keys["scale"], config.intensity_scale_probability, 1 - spread, 1 + spread)
        image *= jnp.where(happens, factor, 1.0)
    if config.intensity_offset_probability:
        spread = config.intensity_offset_range
        happens, offset = _draw(keys["offset"], config.intensity_offset_probability, -spread, spread)
        image += jnp.where(happens, offset, 0.0)
    if config.illumination_probability:
        happens, _ = _draw(keys["illumination"], config.illumination_probability, 0.0, 1.0)
        fields = smooth_field(keys["illumination"], image.shape[1:3], config.illumination_spacing, 2) * happens
        factor, offset = fields[..., :1] * config.illumination_range, fields[..., 1:] * config.illumination_offset_range
        image = image * (1 + factor) + offset
    if config.blur_probability:
        happens, sigmas = _draw(keys["blur"], config.blur_probability, *config.blur_sigma_range, shape=(2,))
        image = jnp.where(happens, blur(image, sigmas, config.blur_sigma_range[1]), image)
    if config.noise_probability:
        happens, std = _draw(keys["noise"], config.noise_probability, *config.noise_std_range)
        noise = jax.random.normal(jax.random.fold_in(keys["noise"], 2), image.shape)
        image += jnp.where(happens, std, 0.0) * noise
    return image


def _draw(key: Array, probability: float, low: float, high: float, shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
    """Whether it happens, and uniform numbers between low and high."""
    happens = jax.random.bernoulli(jax.random.fold_in(key, 0), probability)
    return happens, jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=low, maxval=high)


def adjust_gamma(image: Array, exponent: Array | float) -> Array:
    """Gamma for data of any sign: `[Z, Y, X, C]` -> the same shape, channel by channel.

    The values are brought to [0, 1] by the channel's own minimum and maximum, raised to `exponent`, then shifted and
    scaled to the mean and standard deviation they had; so only the shape of the histogram changes, never the
    brightness or contrast that normalisation set. A constant channel stays as it is.
    """
    axes = (0, 1, 2)
    low, high = jnp.min(image, axes, keepdims=True), jnp.max(image, axes, keepdims=True)
    span = high - low
    # On a CPU, exp and log are vectorised and power is not. The logarithm of 0 is -inf, whose exponential is 0 again.
    powered = jnp.exp(exponent * jnp.log((image - low) / jnp.where(span > 0, span, 1.0)))
    mean, std = jnp.mean(powered, axes, keepdims=True), jnp.std(powered, axes, keepdims=True)
    restored = (powered - mean) / jnp.where(std > 0, std, 1.0) * jnp.std(image, axes, keepdims=True)
    return jnp.where((span > 0) & (std > 0), restored + jnp.mean(image, axes, keepdims=True), image)


def blur(image: Array, sigmas: Array, largest: float) -> Array:
    """Gaussian blur of `[Z, Y, X, C]` in the plane with sigmas `[2]` (Y, X) in pixels, none above `largest`.

    The kernel ends at four times `largest` and its sum is one; beyond the image its edge pixels repeat.
    """
    radius = int(4 * largest + 0.5)
    offsets = jnp.arange(-radius, radius + 1)
    for axis, sigma in zip((1, 2), sigmas, strict=True):
        weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigma, 1e-3)))
        weights /= weights.sum()
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = jnp.pad(image, padding, mode="edge")
        size = image.shape[axis]
        image = sum(weights[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1))
    return image
