"""Pixel metrics on the device: jit-able, float32, one number per sample and channel.

Training's validation uses these; the report of `vsjax.evaluate` uses their float64 twins in `evaluation/pixel.py`,
and the tests hold the two together. Every function takes `prediction` and `target` of shape `[B, Z, Y, X, C]` (any
units, the same in both) and returns `[B, C]` float32 over the whole Z, Y, X stack. float32 is enough because images are
centred before anything is squared: raw camera counts with a large offset keep their digits.

Where a metric is undefined it is NaN, never an exception: `pearson` if either image is constant; `psnr`, `r2` and
`ssim` if the target is constant. Average over samples with `jnp.nanmean`.

Errors are dm_pix's. Its PSNR takes the range to be 1, and dividing both images by theirs costs half as much time again;
its SSIM takes two to five times as long, and on small patches of camera counts with an offset of 30,000 it is off by
.002 (`scripts/bench_dm_pix.py`).
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

_VOLUME = (1, 2, 3)
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def pearson(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Pearson's correlation coefficient over the stack, `[B, C]` in [-1, 1]; unchanged by scale and offset."""
    p, t = _centred(prediction), _centred(target)
    return _mean(p * t) / jnp.sqrt(_mean(p * p) * _mean(t * t))


def mae(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute error, `[B, C]`, in the images' units."""
    return _per_channel(dm_pix.mae, prediction, target)


def mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error, `[B, C]`, in the images' units squared."""
    return _per_channel(dm_pix.mse, prediction, target)


def psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, `[B, C]`: `10 log10(range² / MSE)`, range = max - min of the target's stack."""
    return 10.0 * jnp.log10(jnp.square(_span(target)) / mse(prediction, target))


def r2(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Coefficient of determination, `[B, C]`: `1 - MSE / variance of the target`; 1 is perfect, 0 is the mean."""
    residual = _difference(prediction, target) / _per_voxel(_span(target))
    return 1.0 - _mean(jnp.square(residual)) / _mean(jnp.square(_centred(target)))


def ssim(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Structural similarity of the 2-D slices, averaged over Y, X and Z: `[B, C]`.

    Wang et al. 2004 with an 11 x 11 Gaussian window (sigma 1.5), k1 .01, k2 .03 and population covariances, as
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`. The data
    range is max - min of the target's stack. Only windows that lie inside the image count; NaN when none does.
    """
    if min(target.shape[2:4]) < SSIM_WINDOW:
        return jnp.full((target.shape[0], target.shape[4]), jnp.nan, jnp.float32)
    span = _per_voxel(_span(target))
    offset = jnp.mean(target.astype(jnp.float32), axis=_VOLUME, keepdims=True)
    p, t = (prediction.astype(jnp.float32) - offset) / span, (target.astype(jnp.float32) - offset) / span
    mean_p, mean_t = _blur(p), _blur(t)
    variances = _blur(p * p) - mean_p**2 + _blur(t * t) - mean_t**2
    covariance = _blur(p * t) - mean_p * mean_t
    base = offset / span
    luminance_loss = (mean_p - mean_t) ** 2 / ((mean_p + base) ** 2 + (mean_t + base) ** 2 + SSIM_K1**2)
    return _mean((1.0 - luminance_loss) * (2.0 * covariance + SSIM_K2**2) / (variances + SSIM_K2**2))


def _per_channel(function: Callable[..., jax.Array], prediction: jax.Array, target: jax.Array) -> jax.Array:
    """One of dm_pix's metrics over each channel's stack, `[B, C]`: Z, Y, X in the place of its Y, X, C."""
    images = (x.astype(jnp.float32) for x in (prediction, target))
    return jax.vmap(function, in_axes=-1, out_axes=-1)(*images)


def _blur(x: jax.Array) -> jax.Array:
    """Gaussian window over Y and X, valid part only. Shifted sums: XLA on CPU is slow at convolutions per channel."""
    taps = np.exp(-0.5 * ((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2)
    for axis in (2, 3):
        size = x.shape[axis] - SSIM_WINDOW + 1
        slices = (jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(SSIM_WINDOW))
        x = sum(float(tap) * part for tap, part in zip(taps / taps.sum(), slices, strict=True))
    return x


def _mean(x: jax.Array) -> jax.Array:
    """`[B, Z, Y, X, C] -> [B, C]`."""
    return jnp.mean(x, axis=_VOLUME)


def _per_voxel(x: jax.Array) -> jax.Array:
    """`[B, C] -> [B, 1, 1, 1, C]`."""
    return x[:, None, None, None, :]


def _centred(x: jax.Array) -> jax.Array:
    """Minus its mean and divided by its range, so that squares neither overflow nor vanish; NaN if constant.

    Centred twice: the second pass takes away what rounding left of the first mean.
    """
    span = _per_voxel(_span(x))
    x = x.astype(jnp.float32)
    x = (x - jnp.mean(x, axis=_VOLUME, keepdims=True)) / span
    return x - jnp.mean(x, axis=_VOLUME, keepdims=True)


def _difference(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _span(x: jax.Array) -> jax.Array:
    """Max - min of each stack, `[B, C]`; NaN for a constant one, which makes what is divided by it NaN."""
    x = x.astype(jnp.float32)
    span = jnp.max(x, axis=_VOLUME) - jnp.min(x, axis=_VOLUME)
    return jnp.where(span > 0, span, jnp.nan)
