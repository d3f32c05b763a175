"""FNet3D (Ounkomol et al. 2018, Nat Methods 15:917): a 3-D U-Net that halves all three axes.

Weight for weight VisCy's `Unet3d`, channels last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vsjax.errors import UserError
from vsjax.models.conv_block import batch_norm
from vsjax.models.convnext import NARROW_NORMAL
from vsjax.models.convolution import Conv
from vsjax.models.frame import Frame, keep
from vsjax.models.network import WIDEST, Halvings, Network, Slices, Width, numbered, unet_radius
from vsjax.models.shuffle import torch_uniform


class FNet3D(Network):
    """`[B, Z, Y, X, in_channels] -> [B, Z, Y, X, out_channels]`, float32 out; every axis divisible by `2**depth`.

    `in_stack_depth` says how many slices it is trained and used with. In training it updates `batch_stats`.
    """

    depth: Halvings = 4
    mult_chan: Width = 32
    in_stack_depth: Slices = 16
    dtype: Any = jnp.float32

    framed = True

    @property
    def out_depth(self) -> int:
        """As many slices as it sees."""
        return self.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Each stage of the encoder halves every axis."""
        return (2**self.depth,) * 3

    @property
    def receptive_radius(self) -> int:
        """Of the path through the bottleneck."""
        return unet_radius(
            self.depth,
            block=2,
            bottom=2,
            first=1,
            last=1,
            halving=lambda seen: (2 * seen[0] - 1, 2 * seen[1] + 1),
            doubling=lambda seen: (seen[0] // 2, (seen[1] + 1) // 2),
        )

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        encoder, down, up, decoder = (numbered(name, self.depth) for name in ("encoder", "down", "up", "decoder"))
        return {
            "encoder": ("in_conv", *encoder, *down, "bottleneck"),
            "decoder": (*up, *decoder),
            "head": ("out_conv",),
        }

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the convolutional stages; `down_0` and `up_0` are single convolutions."""
        return *numbered("encoder", self.depth), "bottleneck", *numbered("decoder", self.depth)

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        if self.in_stack_depth % 2**self.depth:
            raise UserError(
                f"model.in_stack_depth = {self.in_stack_depth} is not divisible by 2**model.depth = {2**self.depth}; "
                "change one of the two"
            )
        if self.mult_chan * 2**self.depth > WIDEST:
            raise UserError(
                f"model.mult_chan = {self.mult_chan} makes layers of {self.mult_chan * 2**self.depth} features, more "
                f"than {WIDEST}; take fewer, or a smaller model.depth"
            )

    @nn.compact
    def __call__(self, x: Array, train: bool = False, frame: Frame | None = None) -> Array:
        widths = [self.mult_chan * 2**i for i in range(self.depth + 1)]
        x = self._conv(keep(x, frame), widths[0], "in_conv")
        skips = []
        for i, width in enumerate(widths[:-1]):
            x = DoubleConv(width, self.dtype, name=f"encoder_{i}")(x, train, frame)
            skips.append(x)
            x = self._conv(keep(x, frame), widths[i + 1], f"down_{i}", stride=2)
        x = DoubleConv(widths[-1], self.dtype, name="bottleneck")(x, train, frame)
        for i, skip in enumerate(reversed(skips)):
            width = skip.shape[-1]
            up = nn.ConvTranspose(
                width,
                (3, 3, 3),
                strides=(2, 2, 2),
                padding=((1, 2),) * 3,
                kernel_init=NARROW_NORMAL,
                bias_init=torch_uniform(27 * width),
                dtype=self.dtype,
                name=f"up_{i}",
            )
            x = jnp.concatenate([up(keep(x, frame)), skip], axis=-1)
            x = DoubleConv(width, self.dtype, name=f"decoder_{i}")(x, train, frame)
        return self._conv(keep(x, frame), self.out_channels, "out_conv").astype(jnp.float32)

    def _conv(self, x: Array, features: int, name: str, stride: int = 1) -> Array:
        return Conv(features, (3, 3, 3), stride, kernel_init=NARROW_NORMAL, dtype=self.dtype, name=name)(x)


class DoubleConv(nn.Module):
    """Twice a 3x3x3 convolution, batch norm and ReLU: `[B, Z, Y, X, C] -> [B, Z, Y, X, features]`."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, frame: Frame | None = None) -> Array:
        for i in range(2):
            conv = Conv(self.features, (3, 3, 3), kernel_init=NARROW_NORMAL, dtype=self.dtype, name=f"conv_{i}")
            x = conv(keep(x, frame))
            x = nn.relu(batch_norm(train, self.dtype, f"norm_{i}", scale_init=_near_one)(x))
        return x


def _near_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return 1 + NARROW_NORMAL(key, shape, dtype)
