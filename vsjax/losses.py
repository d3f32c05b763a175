"""Losses, one number per sample: `[B, Z, Y, X, C]` predictions and targets in, `[B]` out; the caller averages.

All are computed in float32 whatever the dtype of the input. The source of the mixed loss and of the 2.5D structural
similarity is Liu et al. 2025 (UNeXt2, methods); its constants and its treatment of the edges follow VisCy's. It is not
`dm_pix.ssim`, which lacks the contrast term that several scales need, loses digits where images have a large offset,
and takes two to four times as long with this window (`scripts/bench_dm_pix.py`).
"""

from collections.abc import Sequence

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vsjax.errors import UserError

WINDOW = 11  # pixels in Y and X of the uniform SSIM window; in Z it covers the whole depth
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, finest first (Wang et al. 2003)
K1, K2 = 0.01, 0.03
CLAMP = 1e-4  # least value of a scale's term: a fractional power of a negative contrast term is not a number
LEAST_RANGE = 1e-6  # in place of a data range of zero, which would divide 0 by 0 where both images are flat


def l1(prediction: Array, target: Array) -> Array:
    """Mean absolute error of each sample: `[B, Z, Y, X, C]` twice -> `[B]`."""
    return dm_pix.mae(*_as_images(prediction, target))


def l2(prediction: Array, target: Array) -> Array:
    """Mean squared error of each sample: `[B, Z, Y, X, C]` twice -> `[B]`."""
    return dm_pix.mse(*_as_images(prediction, target))


def masked_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the masked positions only, the loss of masked pre-training (FCMAE).

    prediction, target: `[B, Z, Y, X, C]`; mask: `[B, Y, X]` or `[B, Y, X, 1]`, true where the input was hidden, the
    same for all slices and channels. Returns `[B]`: the mean over hidden pixels, slices *and channels*, 0 for a sample
    of which nothing is hidden. VisCy divides by the pixels of the one-channel mask of the whole batch, so its number
    is the sum over the channels, C times this one (samples weighted by their number of hidden pixels, which is the
    same for all when the mask is drawn with a fixed ratio).
    """
    prediction, target = _float32(prediction, target)
    mask = mask.reshape(target.shape[0], *target.shape[2:4]).astype(jnp.float32)
    error = jnp.mean(jnp.square(prediction - target), axis=(1, 4))
    return jnp.sum(error * mask, axis=(1, 2)) / jnp.maximum(jnp.sum(mask, axis=(1, 2)), 1.0)


def ssim_25d(prediction: Array, target: Array, *, data_range: Array | float | None = None) -> Array:
    """Structural similarity of each sample with a uniform window of (all slices, 11, 11) and no padding.

    prediction, target: `[B, Z, Y, X, C]` with Y and X at least 11. data_range: a scalar, or `[B]`; by default the
    largest value of `target` over the *whole batch and all channels*, as in VisCy, so a sample's number depends on
    its batch through this one constant (give `data_range` to avoid that). Returns `[B]`, the mean over channels and
    window positions. Variances are the biased ones, in float32. Raises `UserError` if the images are too small.
    """
    prediction, target = _float32(prediction, target)
    check_scales(target.shape[2:4], 1)
    return _ssim_and_contrast(prediction, target, _squared_range(target, data_range))[0]


def ms_ssim_ranges(target: Array, scales: int) -> tuple[Array, ...]:
    """The data range that `ms_ssim_25d` takes by default at each scale: for a batch that is computed in parts."""
    (target,) = _float32(target)
    ranges = [jnp.max(target)]
    for _ in range(scales - 1):
        target = _pool(target)
        ranges.append(jnp.max(target))
    return tuple(ranges)


def ms_ssim_25d(
    prediction: Array,
    target: Array,
    *,
    scales: int = len(BETAS),
    data_range: Array | float | Sequence[Array] | None = None,
) -> Array:
    """Multi-scale 2.5D structural similarity of each sample, between 1e-4 and 1.

    prediction, target: `[B, Z, Y, X, C]` -> `[B]`: the product over the scales of the contrast term (at the coarsest
    scale, the whole SSIM) to the power of its beta; each term is clamped from below at 1e-4. Between scales Y and X
    are average-pooled by 2 (an odd last row or column is dropped), Z is not. data_range as in `ssim_25d`, or a sequence
    with one for each scale; by default it is taken anew from the pooled target at each scale, as VisCy does.

    scales: the paper's five need Y and X of at least 176; for smaller patches a smaller number uses the first betas,
    divided by their sum. Nothing is chosen silently: images too small for `scales` raise `UserError`.
    """
    prediction, target = _float32(prediction, target)
    check_scales(target.shape[2:4], scales)
    betas = np.asarray(BETAS[:scales], np.float32)
    if scales < len(BETAS):  # all five are used as published: they sum to 1.0001
        betas = betas / betas.sum()
    similarity = jnp.ones(target.shape[0], jnp.float32)
    for scale, beta in enumerate(betas):
        if scale:
            prediction, target = _pool(prediction), _pool(target)
        largest = data_range[scale] if isinstance(data_range, Sequence) else data_range
        ssim, contrast = _ssim_and_contrast(prediction, target, _squared_range(target, largest))
        term = ssim if scale == scales - 1 else contrast
        similarity *= jnp.maximum(term, CLAMP) ** beta
    return similarity


def mixed_loss(
    prediction: Array,
    target: Array,
    l1: float = 0.5,
    l2: float = 0.0,
    ms_dssim: float = 0.5,
    *,
    scales: int = len(BETAS),
    data_range: Array | float | Sequence[Array] | None = None,
) -> Array:
    """`l1 * L1 + l2 * L2 + ms_dssim * (1 - MS-SSIM_2.5D)` of each sample: `[B, Z, Y, X, C]` twice -> `[B]`.

    A term of weight 0 is not computed. `scales` and `data_range` as in `ms_ssim_25d`. Raises `UserError` when all
    weights are zero, when one is negative, or when Y or X is too small for `scales`.
    """
    if min(l1, l2, ms_dssim) < 0 or max(l1, l2, ms_dssim) == 0:
        raise UserError(
            f"loss: the weights l1={l1}, l2={l2}, ms_dssim={ms_dssim} must not be negative, and one must be positive"
        )
    loss = jnp.zeros(target.shape[0], jnp.float32)
    if l1:
        loss += l1 * _l1(prediction, target)
    if l2:
        loss += l2 * _l2(prediction, target)
    if ms_dssim:
        loss += ms_dssim * (1.0 - ms_ssim_25d(prediction, target, scales=scales, data_range=data_range))
    return loss


_l1, _l2 = l1, l2  # `mixed_loss` names its weights after them


def check_scales(patch_yx: tuple[int, int], scales: int) -> None:
    """Raise `UserError` if `ms_ssim_25d` cannot be computed on images of (Y, X) pixels with this many scales."""
    if not 1 <= scales <= len(BETAS):
        raise UserError(
            f"loss scales: {scales} is not between 1 and {len(BETAS)}; set config.task.loss.scales accordingly"
        )
    least = WINDOW * 2 ** (scales - 1)
    if min(patch_yx) < least:
        fitting = sum(min(patch_yx) >= WINDOW * 2**scale for scale in range(len(BETAS)))
        remedy = f"or set config.task.loss.scales to {fitting} or less" if fitting else "or give ms_dssim a weight of 0"
        raise UserError(
            f"loss: a patch of {patch_yx[0]} x {patch_yx[1]} pixels is too small for an MS-SSIM of {scales} scales, "
            f"which needs {least} x {least}; use a larger patch {remedy}"
        )


def _as_images(*volumes: Array) -> list[Array]:
    """`[B, Z, Y, X*C]`, since dm_pix's images have three axes. X is whole on every device; Y need not be."""
    return [volume.reshape(*volume.shape[:3], -1) for volume in _float32(*volumes)]


def _float32(*arrays: Array) -> list[Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def _squared_range(target: Array, data_range: Array | float | None) -> Array:
    """The square of the data range, in a shape that broadcasts against `[B, Y, X, C]`."""
    largest = jnp.max(target) if data_range is None else jnp.asarray(data_range, jnp.float32)
    return jnp.maximum(jnp.square(largest), LEAST_RANGE**2).reshape(-1, 1, 1, 1)


def _ssim_and_contrast(prediction: Array, target: Array, squared_range: Array) -> tuple[Array, Array]:
    """SSIM and its contrast-structure term, each averaged over a sample's channels and positions: `[B]`, `[B]`."""
    c1, c2 = K1**2 * squared_range, K2**2 * squared_range
    # Variances do not change when both images are shifted, but the cancellation in E[x²] - E[x]² does.
    offset = jax.lax.stop_gradient(jnp.mean(target, axis=(1, 2, 3), keepdims=True))
    x, y, offset = prediction - offset, target - offset, offset[:, 0]
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        _window_mean(jnp.mean(moment, axis=1)) for moment in (x, y, x * x, y * y, x * y)
    )
    variances = jnp.maximum(mean_xx - mean_x**2, 0.0) + jnp.maximum(mean_yy - mean_y**2, 0.0)
    contrast = (2.0 * (mean_xy - mean_x * mean_y) + c2) / (variances + c2)
    mean_x, mean_y = mean_x + offset, mean_y + offset
    ssim = contrast * (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return jnp.mean(ssim, axis=(1, 2, 3)), jnp.mean(contrast, axis=(1, 2, 3))


def _window_mean(images: Array) -> Array:
    """Mean over every 11 x 11 window that lies inside `[B, Y, X, C]`.

    Two one-dimensional sliding sums: forward and gradient on a CPU take an eighth of the time of shifted sums, a
    twentieth of convolutions, and unlike cumulative sums they lose no digits.
    """
    for axis in (1, 2):
        window = [1] * images.ndim
        window[axis] = WINDOW
        images = jax.lax.reduce_window(images, 0.0, jax.lax.add, window, [1] * images.ndim, "VALID")
    return images / WINDOW**2


def _pool(images: Array) -> Array:
    """Average-pool `[B, Z, Y, X, C]` by 2 in Y and X; an odd last row or column is dropped."""
    batch, depth, height, width, channels = images.shape
    images = images[:, :, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(batch, depth, height // 2, 2, width // 2, 2, channels).mean(axis=(3, 5))
