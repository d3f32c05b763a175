"""The block of VisCy's 2-D and 2.5-D U-Nets, in two or three dimensions, and what they halve and double planes with."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from vsjax.models.convolution import Conv
from vsjax.models.frame import Frame, keep
from vsjax.models.network import unet_radius


class ConvBlock(nn.Module):
    """Convolution, dropout, ReLU, batch norm, `layers` times over; optionally around a shortcut.

    `[B, *space, C] -> [B, *space, features]` with a kernel of one odd size for each axis of space. The shortcut passes
    channels that become more on behind zeros, and projects those that become fewer. VisCy keeps the projection's
    weights in every block, needed or not; they are kept here too, so that weights and their count are the same.
    """

    features: int
    kernel_size: tuple[int, ...]
    layers: int = 2
    dropout: float = 0.0
    residual: bool = False
    activate: bool = True
    normalise: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, frame: Frame | None = None) -> Array:
        start = x
        for i in range(self.layers):
            x = Conv(self.features, self.kernel_size, dtype=self.dtype, name=f"conv_{i}")(keep(x, frame))
            if self.dropout:
                space = tuple(range(1, x.ndim - 1))
                x = nn.Dropout(self.dropout, broadcast_dims=space, deterministic=not train, name=f"dropout_{i}")(x)
            if self.activate:
                x = nn.relu(x)
            if self.normalise:
                x = batch_norm(train, self.dtype, f"norm_{i}")(x)
        one = (1,) * len(self.kernel_size)
        projected = Conv(self.features, one, dtype=self.dtype, name="shortcut")(start)
        if not self.residual:
            return x
        if start.shape[-1] > self.features:
            return x + projected
        more = self.features - start.shape[-1]
        return x + jnp.pad(start, (*[(0, 0)] * (start.ndim - 1), (more, 0))).astype(x.dtype)


def unet(
    x: Array, filters: Sequence[int], block: Callable[[int, str], ConvBlock], train: bool, frame: Frame | None
) -> tuple[Array, Array]:
    """A 2-D U-Net of the blocks `down_0`, ..., `bottom`, `up_0`, ...: what the bottom and what the last block give.

    `[B, Y, X, C] -> [B, Y / 2^n, X / 2^n, filters[-1]], [B, Y, X, filters[0]]` for n + 1 filters; `block` makes one of
    so many features and of this name.
    """
    skips = []
    for i, features in enumerate(filters[:-1]):
        skips.append(block(features, f"down_{i}")(x, train, frame))
        x = halve_plane(skips[-1])
    x = bottom = block(filters[-1], "bottom")(x, train, frame)
    for i, skip in enumerate(reversed(skips)):
        x = jnp.concatenate([double_plane(x, frame), skip], axis=-1)
        x = block(filters[-i - 2], f"up_{i}")(x, train, frame)
    return bottom, x


def batch_norm(train: bool, dtype: Any, name: str, scale_init: Any = nn.initializers.ones) -> nn.BatchNorm:
    """Batch norm with PyTorch's epsilon and momentum; its averages are in the collection `batch_stats`."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, scale_init=scale_init, name=name
    )


def halve_plane(x: Array) -> Array:
    """Average over 2x2 pixels: `[B, ..., Y, X, C] -> [B, ..., Y/2, X/2, C]`."""
    *lead, rows, columns, channels = x.shape
    return x.reshape(*lead, rows // 2, 2, columns // 2, 2, channels).mean(axis=(-4, -2))


def pooling_unet_radius(halvings: int, *, block: int, bottom: int, last: int) -> int:
    """`network.unet_radius` of a network of `halve_plane` and `double_plane`."""
    return unet_radius(
        halvings,
        block=block,
        bottom=bottom,
        last=last,
        halving=lambda seen: (2 * seen[0], 2 * seen[1] + 1),
        doubling=lambda seen: ((seen[0] - 1) // 2, (seen[1] + 1) // 2),
    )


def double_plane(x: Array, frame: Frame | None = None) -> Array:
    """Linear interpolation to twice the size (corners not aligned): `[B, ..., Y, X, C] -> [B, ..., 2Y, 2X, C]`."""
    return _double(_double(x, 0, frame), 1, frame)


def _double(x: Array, plane_axis: int, frame: Frame | None) -> Array:
    axis = x.ndim - 3 + plane_axis
    size = x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, mode="edge")
    before, after = (lax.slice_in_dim(padded, shift, shift + size, axis=axis) for shift in (0, 2))
    if frame is not None:  # the image's border is repeated, as that of the plane is
        first, end = frame.along(plane_axis, size)
        place = jnp.arange(size).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        before, after = jnp.where(place == first, x, before), jnp.where(place == end - 1, x, after)
    both = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
