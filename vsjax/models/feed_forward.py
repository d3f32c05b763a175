"""The pointwise half of a ConvNeXt V2 block (Woo et al. 2023, arXiv:2301.00808): a wide layer with GELU and global
response normalisation, and its gradient.

The wide layer has four times the channels of the block, so memory traffic rules its time. The gradient rule keeps what
comes out of the first product and nothing else that wide; GELU and the normalisation are computed again from it, which
is less work than to read them back.
"""

import math
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vsjax.models.dense import dense, input_gradient, kernel_gradient

# Numerator and denominator of x times a rational function of x², highest power first: erf on [-4, 4] to 5e-7, the
# polynomials of Eigen's `generic_fast_erf_float`. XLA's own `erf` is as accurate and takes five times as long on a CPU.
_ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_EPSILON = 1e-6


class Weights(NamedTuple):
    """Kernels `[C, D]` and `[D, C']` and their biases; between them the normalisation's scale and bias `[D]`."""

    expand_kernel: Array
    expand_bias: Array
    scale: Array
    bias: Array
    project_kernel: Array
    project_bias: Array


def normal_cdf(x: Array) -> Array:
    """Distribution function of the standard normal, to 3e-7: float32 of any shape."""
    x = jnp.clip(x * math.sqrt(0.5), -4.0, 4.0)
    above, below = (reduce(lambda total, factor: total * x * x + factor, row) for row in (_ERF_ABOVE, _ERF_BELOW))
    return 0.5 + 0.5 * x * above / below


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def feed_forward(x: Array, weights: Weights, visible: Array | None, dtype: Any) -> Array:
    """Expand, GELU, global response normalisation, project: `[B, ..., C] -> [B, ..., C']` in `dtype`.

    Matrices are multiplied in `dtype`, all else is computed in float32. With `visible` (`[B, ..., 1]`, 1 where visible)
    the norms over space leave the masked positions out.
    """
    return _forward(x, weights, visible, dtype)[0]


class _Saved(NamedTuple):
    """What the gradient needs: the input, the wide layer before GELU, and the energy of its channels after it."""

    x: Array
    wide: Array
    energy: Array
    weights: Weights
    visible: Array | None


def _forward(x: Array, weights: Weights, visible: Array | None, dtype: Any) -> tuple[Array, _Saved]:
    wide = dense(x, weights.expand_kernel, weights.expand_bias, dtype)
    activated, _ = _gelu(wide)
    energy = jnp.square(_seen(activated, visible)).sum(axis=_space(x), keepdims=True)
    gain = _response(energy, weights.scale)[2]
    normalised = (activated * gain + weights.bias).astype(dtype)
    out = dense(normalised, weights.project_kernel, weights.project_bias, dtype)
    return out, _Saved(x.astype(dtype), wide, energy, weights, visible)


def _backward(dtype: Any, saved: _Saved, cotangent: Array) -> tuple[Array, Weights, None]:
    x, wide, energy, weights, visible = saved
    rows = tuple(range(x.ndim - 1))
    norm, mean, gain = _response(energy, weights.scale)
    activated, _ = _gelu(wide)
    normalised = (activated * gain + weights.bias).astype(dtype)
    of_project = kernel_gradient(normalised, cotangent, dtype)
    slope = input_gradient(cotangent, weights.project_kernel, dtype)
    # Without the barrier XLA would keep the wide float32 arrays of above instead of computing them again.
    slope, wide = lax.optimization_barrier((slope, wide))
    slope = slope.astype(jnp.float32)
    activated, by_wide = _gelu(wide)

    # Through the gain, 1 + scale * norm / mean(norm).
    by_gain = (slope * activated).sum(axis=_space(x), keepdims=True)
    by_ratio = by_gain * weights.scale
    by_norm = by_ratio / mean - (by_ratio * norm).mean(axis=-1, keepdims=True) / jnp.square(mean)
    by_energy = jnp.where(energy > 0, by_norm / jnp.where(energy > 0, norm, 1.0), 0.0)  # times 2
    by_activated = slope * gain + _seen(_seen(activated, visible), visible) * by_energy

    of_wide = (by_activated * by_wide).astype(dtype)
    gradient = Weights(
        expand_kernel=kernel_gradient(x, of_wide, dtype),
        expand_bias=of_wide.astype(jnp.float32).sum(axis=rows),
        scale=(by_gain * norm / mean).sum(axis=rows),
        bias=slope.sum(axis=rows),
        project_kernel=of_project,
        project_bias=cotangent.astype(jnp.float32).sum(axis=rows),
    )
    return input_gradient(of_wide, weights.expand_kernel, dtype), gradient, None


feed_forward.defvjp(_forward, _backward)


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _seen(x: Array, visible: Array | None) -> Array:
    return x if visible is None else x * visible


def _gelu(x: Array) -> tuple[Array, Array]:
    """GELU (exact) and its slope, in float32."""
    x = x.astype(jnp.float32)
    below = normal_cdf(x)
    return x * below, below + x * jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _response(energy: Array, scale: Array) -> tuple[Array, Array, Array]:
    """The norm of each channel, their mean, and the factor that each channel gets: from `[B, ..., D]`."""
    # The root's slope is infinite at zero; a silent channel gets the gradient zero instead of NaN.
    norm = jnp.where(energy > 0, jnp.sqrt(jnp.where(energy > 0, energy, 1.0)), 0.0)
    mean = norm.mean(axis=-1, keepdims=True) + _EPSILON
    return norm, mean, 1.0 + scale * (norm / mean)
