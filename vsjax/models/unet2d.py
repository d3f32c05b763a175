"""The 2-D U-Net with optional shortcuts (Ronneberger et al. 2015; Zhang et al. 2018): one slice in, one slice out.

Weight for weight VisCy's `Unet2d`, channels last. There a rounding of its rate switches dropout off; here it works.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vsjax.models.conv_block import ConvBlock, pooling_unet_radius, unet
from vsjax.models.frame import Frame
from vsjax.models.network import Blocks, DropRate, Halvings, Kernel, Network, Width, numbered
from vsjax.models.unet25d import check_filters


class UNet2D(Network):
    """`[B, 1, Y, X, in_channels] -> [B, 1, Y, X, out_channels]`, float32 out.

    Y and X must be divisible by `divisor`. Settings have VisCy's names; see `UNet25D`. `task` `seg` ends in ReLU.
    """

    kernel_size: tuple[Kernel, Kernel] = (3, 3)
    residual: bool = False
    dropout: DropRate = 0.2
    num_blocks: Halvings = 4
    num_block_layers: Blocks = 2
    num_filters: tuple[Width, ...] = ()
    task: Literal["reg", "seg"] = "reg"
    dtype: Any = jnp.float32

    framed = True

    @property
    def in_stack_depth(self) -> int:
        """One slice."""
        return 1

    @property
    def out_depth(self) -> int:
        """One slice."""
        return 1

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Each block of the encoder halves the plane."""
        return 1, 2**self.num_blocks, 2**self.num_blocks

    @property
    def receptive_radius(self) -> int:
        """Of the path through the bottom."""
        one = max(self.kernel_size) // 2
        block = self.num_block_layers * one
        return pooling_unet_radius(self.num_blocks, block=block, bottom=block, last=one)

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        return {
            "encoder": (*numbered("down", self.num_blocks), "bottom"),
            "decoder": numbered("up", self.num_blocks),
            "head": ("terminal",),
        }

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the convolutional stages."""
        return *numbered("down", self.num_blocks), "bottom", *numbered("up", self.num_blocks)

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        check_filters(self.num_filters, self.num_blocks)

    @nn.compact
    def __call__(self, x: Array, train: bool = False, frame: Frame | None = None) -> Array:
        filters = self.num_filters or [16 * 2**i for i in range(self.num_blocks + 1)]

        def block(features: int, name: str) -> ConvBlock:
            return ConvBlock(
                features,
                tuple(self.kernel_size),
                self.num_block_layers,
                self.dropout,
                self.residual,
                dtype=self.dtype,
                name=name,
            )

        _, x = unet(x[:, 0], filters, block, train, frame)
        terminal = ConvBlock(
            self.out_channels,
            tuple(self.kernel_size),
            layers=1,
            dropout=self.dropout,
            activate=self.task == "seg",
            normalise=False,
            dtype=self.dtype,
            name="terminal",
        )
        return terminal(x, train, frame)[:, None].astype(jnp.float32)
