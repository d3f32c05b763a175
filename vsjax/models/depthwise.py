"""Depthwise two-dimensional convolution, fast on CPUs as well as on accelerators.

XLA runs a grouped convolution on a CPU some 20 times slower than the same sum written as shifted multiply-adds, and
the gradient that it would derive from those is slow again (49 separate reductions for a 7x7 kernel). Hence the
gradient rule below. The loops over samples and bands of rows keep XLA from merging these sums with their neighbours,
which costs more time, to run and to compile, than the sums themselves.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Implementation = Literal["auto", "shift", "conv"]

# Products that one fused loop of the kernel gradient adds up before it touches its accumulator: enough to hide the
# accumulator's memory traffic, few enough to compile in a fraction of a second.
_PRODUCTS_PER_PASS = 16


def depthwise_conv(x: Array, kernel: Array, implementation: Implementation = "auto") -> Array:
    """Convolve each channel with its own kernel: stride 1, zero padding, same size out as in.

    Args:
        x: `[B, Y, X, C]`.
        kernel: `[ky, kx, C]` with odd ky and kx, in x's type.
        implementation: `conv` is XLA's grouped convolution, `shift` a sum of shifted products, and `auto` takes
            `shift` where the one device is a CPU and `conv` elsewhere: over several devices `shift` would move each
            sample to all of them.

    Returns:
        `[B, Y, X, C]` in x's type.
    """
    if implementation not in ("auto", "shift", "conv"):
        raise ValueError(f"depthwise implementation {implementation!r}; known: auto, shift, conv")
    if implementation == "auto":
        implementation = "shift" if jax.default_backend() == "cpu" and jax.device_count() == 1 else "conv"
    if implementation == "conv":
        return lax.conv_general_dilated(
            x,
            _without_idle_taps(kernel, x.shape[1:3])[:, :, None, :],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    return _shifted_sum(x, kernel)


def _without_idle_taps(kernel: Array, plane: tuple[int, int]) -> Array:
    """The kernel without the outer taps that meet nothing but padding, which a plane of a few pixels leaves idle.

    This saves work, and numbers: with samples spread over some devices and rows over two, XLA's partitioner was seen to
    convolve planes of up to 12 pixels with 7x7 taps wrongly (JAX 0.10.2, CPU; in float64 too, so it is no rounding).
    """
    idle = [max(0, taps // 2 - (size - 1)) for taps, size in zip(kernel.shape, plane, strict=False)]
    return kernel[idle[0] : kernel.shape[0] - idle[0], idle[1] : kernel.shape[1] - idle[1]]


def _pad(x: Array, kernel_shape: tuple[int, ...]) -> Array:
    ky, kx = kernel_shape[0] // 2, kernel_shape[1] // 2
    return jnp.pad(x, (*[(0, 0)] * (x.ndim - 3), (ky, ky), (kx, kx), (0, 0)))


@jax.custom_vjp
def _shifted_sum(x: Array, kernel: Array) -> Array:
    rows, columns = x.shape[1:3]
    wide = kernel.astype(jnp.float32)

    def one_sample(carry: None, sample: Array) -> tuple[None, Array]:
        padded = _pad(sample, kernel.shape).astype(jnp.float32)
        total = jnp.zeros(sample.shape, jnp.float32)
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                total = total + padded[i : i + rows, j : j + columns] * wide[i, j]
        return carry, total.astype(x.dtype)

    return lax.scan(one_sample, None, x)[1]


def _shifted_sum_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_sum(x, kernel), (x, kernel)


def _shifted_sum_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    grad_x = _shifted_sum(cotangent, kernel[::-1, ::-1])
    return grad_x, _kernel_gradient(x, cotangent, kernel.shape).astype(kernel.dtype)


def _kernel_gradient(x: Array, cotangent: Array, kernel_shape: tuple[int, ...]) -> Array:
    """Correlate x with the cotangent at every tap: `[ky, kx, C]` in float32.

    A scan over bands of rows adds products of whole rows into accumulators `[ky, X, C]`, one for each column of the
    kernel, so that the inner loops are element-wise and vectorise; only the short sum over X is left to a reduction.
    """
    batch, rows, columns, channels = x.shape
    ky, kx = kernel_shape[:2]
    band = min(max(1, _PRODUCTS_PER_PASS // batch), rows)
    bands = -(-rows // band)
    extra = ((0, 0), (0, bands * band - rows), (0, 0), (0, 0))
    padded = jnp.pad(_pad(x, kernel_shape), extra)
    cotangent = jnp.pad(cotangent, extra)

    def add_band(totals: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], None]:
        source = lax.dynamic_slice_in_dim(padded, index * band, band + ky - 1, axis=1)
        weight = lax.dynamic_slice_in_dim(cotangent, index * band, band, axis=1).astype(jnp.float32)
        updated = []
        for j, total in enumerate(totals):
            for sample in range(batch):
                for row in range(band):
                    total = total + source[sample, row : row + ky, j : j + columns] * weight[sample, row]
            updated.append(total)
        return tuple(updated), None

    zeros = tuple(jnp.zeros((ky, columns, channels), jnp.float32) for _ in range(kx))
    totals, _ = lax.scan(add_band, zeros, jnp.arange(bands))
    return jnp.stack([total.sum(axis=1) for total in totals], axis=1)


_shifted_sum.defvjp(_shifted_sum_forward, _shifted_sum_backward)
