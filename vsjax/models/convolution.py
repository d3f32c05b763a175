"""Convolutions in the form that is fast where they run. XLA's 3-D convolutions on a CPU, and its gradients of strided
ones, are some ten times slower than the same sums as 2-D convolutions or matrix products."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vsjax.models.shuffle import torch_uniform


class PatchConv(nn.Module):
    """A convolution whose kernel equals its stride, that is, a matrix product over patches.

    `[B, *space, C] -> [B, *space/size, features]`; sizes that `size` does not divide lose their last pixels. With
    `used` false it only has its parameters, and gives None.
    """

    features: int
    size: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, used: bool = True) -> Array | None:
        kernel = self.param("kernel", self.kernel_init, (*self.size, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        if not used:
            return None
        patches = _patches(x.astype(self.dtype), self.size)
        return patches @ kernel.astype(self.dtype).reshape(-1, self.features) + bias.astype(self.dtype)


def _patches(x: Array, size: tuple[int, ...]) -> Array:
    """`[B, *space, C] -> [B, *space/size, prod(size)*C]`."""
    rank = len(size)
    counts = [n // s for n, s in zip(x.shape[1:-1], size, strict=True)]
    x = x[(slice(None), *(slice(n * s) for n, s in zip(counts, size, strict=True)))]
    pairs = [length for pair in zip(counts, size, strict=True) for length in pair]
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return x.transpose(0, *outer, *inner, 2 * rank + 1).reshape(x.shape[0], *counts, -1)


class Conv(nn.Module):
    """A convolution with bias in two or three dimensions: `[B, *space, C] -> [B, *space', features]`.

    `padding` is the number of zeros on both sides of each axis (None: what keeps the size of odd kernels). Initialised
    as PyTorch's unless `kernel_init` or `bias_init` is given.
    """

    features: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: Sequence[int] | None = None
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        uniform = torch_uniform(x.shape[-1] * math.prod(self.kernel_size))
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or uniform, shape).astype(self.dtype)
        bias = self.param("bias", self.bias_init or uniform, (self.features,)).astype(self.dtype)
        padding = [k // 2 for k in self.kernel_size] if self.padding is None else self.padding
        return convolve(x.astype(self.dtype), kernel, self.stride, padding) + bias


def convolve(x: Array, kernel: Array, stride: int, padding: Sequence[int], by_planes: bool | None = None) -> Array:
    """Convolve `[B, *space, C]` with `[*size, C, features]`, `padding` zeros on both sides of each axis.

    `by_planes` writes a 3-D convolution as one in 2-D over the slices that it sees, side by side as channels; None
    does so on CPUs.
    """
    pads = [(p, p) for p in padding]
    if kernel.ndim == 4:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride,) * 2, pads, dimension_numbers=layout)
    if by_planes is None:
        by_planes = jax.default_backend() == "cpu"
    if not by_planes:
        layout = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(x, kernel, (stride,) * 3, pads, dimension_numbers=layout)
    depth, rows, columns, inputs, features = kernel.shape
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0), (0, 0)))
    slices = (x.shape[1] - depth) // stride + 1
    seen = [lax.slice_in_dim(x, z, z + (slices - 1) * stride + 1, stride, axis=1) for z in range(depth)]
    planes = jnp.concatenate(seen, axis=-1).reshape(-1, *x.shape[2:4], depth * inputs)
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(rows, columns, depth * inputs, features)
    out = convolve(planes, flat, stride, padding[1:])
    return out.reshape(-1, slices, *out.shape[1:])
