"""ConvNeXt V2 blocks and stages (Woo et al. 2023, arXiv:2301.00808), dense or with part of the image masked.

Masked, a block computes what the sparse network of the paper does, with static shapes: convolutions see zeros at the
masked positions, and the norms' statistics leave them out.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vsjax.models.cells import Cells
from vsjax.models.convolution import PatchConv
from vsjax.models.dense import DenseParameters, apart
from vsjax.models.depthwise import Implementation, depthwise_conv
from vsjax.models.feed_forward import Weights, feed_forward

NARROW_NORMAL = nn.initializers.normal(0.02)


class LayerNorm(nn.Module):
    """Normalise over channels, in float32 whatever the compute type: `[..., C] -> [..., C]`, in x's type."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - apart(wide.mean(axis=-1, keepdims=True))
        variance = apart(jnp.square(centred).mean(axis=-1, keepdims=True))
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)


class GlobalResponseNorm(nn.Module):
    """Parameters of the global response normalisation, scale and bias `[channels]`; `feed_forward` applies it."""

    @nn.compact
    def __call__(self, channels: int) -> tuple[Array, Array]:
        scale = self.param("scale", nn.initializers.zeros, (channels,))
        return scale, self.param("bias", nn.initializers.zeros, (channels,))


class DepthwiseConv(nn.Module):
    """Depthwise convolution (see `depthwise_conv`): `[B, Y, X, C] -> [B, Y, X, C]`."""

    kernel_size: int = 7
    use_bias: bool = True
    implementation: Implementation = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", NARROW_NORMAL, (self.kernel_size, self.kernel_size, channels))
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.implementation)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (channels,)).astype(self.dtype)


class DropPath(nn.Module):
    """Stochastic depth: drop a whole residual branch per sample, and scale the ones that are kept.

    Draws from the `dropout` random stream when `train` is true and the rate is above zero.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, and a four times wider layer with GELU and GRN, around a shortcut.

    `[B, Y, X, C] -> [B, Y, X, C]`; `visible` is `[B, Y, X, 1]` in x's type or None. With a mask the shortcut is
    masked too, which is what the authors' in-place multiplication does. With `cells`, x is their visible ones
    `[B, V, y, x, C]`, and so is what comes out: the same numbers as with their mask.
    """

    drop_path_rate: float = 0.0
    norm_epsilon: float = 1e-6
    depthwise_bias: bool = True
    last_kernel_init: nn.initializers.Initializer = NARROW_NORMAL
    depthwise: Implementation = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, visible: Array | None = None, cells: Cells | None = None) -> Array:
        channels = x.shape[-1]
        x = x if visible is None else x * visible
        shortcut = x
        x = x if cells is None else cells.spread(x)
        x = DepthwiseConv(7, self.depthwise_bias, self.depthwise, self.dtype, name="depthwise")(x)
        x = x if cells is None else cells.take(x)
        x = LayerNorm(self.norm_epsilon, name="norm")(x)
        wide = 4 * channels
        weights = Weights(
            *DenseParameters(wide, NARROW_NORMAL, name="expand")(channels),
            *GlobalResponseNorm(name="grn")(wide),
            *DenseParameters(channels, self.last_kernel_init, name="project")(wide),
        )
        x = feed_forward(x, weights, visible, self.dtype)
        x = x if visible is None else x * visible
        return shortcut + DropPath(self.drop_path_rate, name="drop_path")(x, train)


class ConvNeXtStage(nn.Module):
    """A norm and a convolution that change size or channels, where needed, then blocks of one width.

    `[B, Y, X, C] -> [B, Y/stride, X/stride, features]`, or the visible ones of `cells`; stride is 1 or 2. With
    `remat` the gradient computes each block again instead of keeping what is inside it: less memory, about a third
    more time.
    """

    features: int
    drop_path_rates: Sequence[float]
    stride: int = 1
    norm_epsilon: float = 1e-6
    depthwise_bias: bool = True
    last_kernel_init: nn.initializers.Initializer = NARROW_NORMAL
    depthwise: Implementation = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, visible: Array | None = None, cells: Cells | None = None) -> Array:
        block = nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock
        if x.shape[-1] != self.features or self.stride > 1:
            x = LayerNorm(name="downsample_norm")(x)
            size = (self.stride, self.stride)
            downsample = PatchConv(self.features, size, NARROW_NORMAL, dtype=self.dtype, name="downsample")
            planes = downsample(x.reshape(-1, *x.shape[-3:]))  # of a cell each, with `cells`
            x = planes.reshape(*x.shape[:-3], *planes.shape[1:])
        for i, rate in enumerate(self.drop_path_rates):
            is_last = i == len(self.drop_path_rates) - 1
            x = block(
                drop_path_rate=rate,
                norm_epsilon=self.norm_epsilon,
                depthwise_bias=self.depthwise_bias,
                last_kernel_init=self.last_kernel_init if is_last else NARROW_NORMAL,
                depthwise=self.depthwise,
                dtype=self.dtype,
                name=f"block_{i}",
            )(x, train, visible, cells)
        return x


def linear_drop_path_rates(depths: Sequence[int], rate: float) -> list[list[float]]:
    """Rates that grow linearly from 0 at the first block to `rate` at the last, grouped by stage."""
    total = sum(depths)
    rates = [rate * i / (total - 1) if total > 1 else 0.0 for i in range(total)]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths, strict=True)]
