"""The 2.5-D U-Net (Guo et al. 2020, eLife 9:e55502): a stack in, one slice out, 3-D only in its encoder.

Weight for weight VisCy's `Unet25d`, channels last.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vsjax.errors import UserError
from vsjax.models.conv_block import ConvBlock, double_plane, halve_plane, pooling_unet_radius
from vsjax.models.convolution import Conv
from vsjax.models.frame import Frame
from vsjax.models.network import Blocks, DropRate, Halvings, Kernel, Network, Slices, Width, numbered


class UNet25D(Network):
    """`[B, in_stack_depth, Y, X, in_channels] -> [B, out_stack_depth, Y, X, out_channels]`, float32 out.

    Y and X must be divisible by `divisor`. Settings have VisCy's names. `num_filters` has `num_blocks + 1` entries
    (empty: 16, doubling); `task` `reg` ends in a linear layer, `seg` in ReLU and batch norm. In training it needs the
    random stream `dropout` and updates `batch_stats`.
    """

    in_stack_depth: Slices = 5
    out_stack_depth: Slices = 1
    xy_kernel_size: tuple[Kernel, Kernel] = (3, 3)
    residual: bool = False
    dropout: DropRate = 0.2
    num_blocks: Halvings = 4
    num_block_layers: Blocks = 2
    num_filters: tuple[Width, ...] = ()
    task: Literal["reg", "seg"] = "reg"
    dtype: Any = jnp.float32

    framed = True

    @property
    def out_depth(self) -> int:
        """Slices that it predicts."""
        return self.out_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Each block of the encoder halves the plane."""
        return 1, 2**self.num_blocks, 2**self.num_blocks

    @property
    def receptive_radius(self) -> int:
        """Of the path through the bottom."""
        block = self.num_block_layers * (max(self.xy_kernel_size) // 2)
        return pooling_unet_radius(self.num_blocks, block=block, bottom=0, last=1)

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        return {
            "encoder": (*numbered("down", self.num_blocks), "bottom"),
            "decoder": (*numbered("skip", self.num_blocks), *numbered("up", self.num_blocks)),
            "head": ("terminal",),
        }

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the convolutional stages."""
        return *numbered("down", self.num_blocks), "bottom", *numbered("up", self.num_blocks)

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        check_filters(self.num_filters, self.num_blocks)
        if self.out_stack_depth > self.in_stack_depth:
            raise UserError(
                f"model.out_stack_depth = {self.out_stack_depth} must be at most model.in_stack_depth = "
                f"{self.in_stack_depth}"
            )

    @nn.compact
    def __call__(self, x: Array, train: bool = False, frame: Frame | None = None) -> Array:
        filters = self.num_filters or [16 * 2**i for i in range(self.num_blocks + 1)]
        settings = {"layers": self.num_block_layers, "dropout": self.dropout, "residual": self.residual}
        depth_kernel = (1 + self.in_stack_depth - self.out_stack_depth, 1, 1)
        skips = []
        for i in range(self.num_blocks):
            block = ConvBlock(filters[i], (3, *self.xy_kernel_size), **settings, dtype=self.dtype, name=f"down_{i}")
            x = block(x, train, frame)
            skips.append(self._collapse(x, filters[i], depth_kernel, f"skip_{i}"))
            x = halve_plane(x)
        x = self._collapse(x, filters[-1], depth_kernel, "bottom")
        for i, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([double_plane(x, frame), skip], axis=-1)
            kernel = (1, *self.xy_kernel_size)
            x = ConvBlock(filters[-i - 2], kernel, **settings, dtype=self.dtype, name=f"up_{i}")(x, train, frame)
        terminal = ConvBlock(
            self.out_channels,
            (1, 3, 3),
            layers=1,
            dropout=0.0 if self.task == "reg" else self.dropout,
            activate=self.task == "seg",
            normalise=self.task == "seg",
            dtype=self.dtype,
            name="terminal",
        )
        return terminal(x, train, frame).astype(jnp.float32)

    def _collapse(self, x: Array, features: int, kernel: tuple[int, int, int], name: str) -> Array:
        return Conv(features, kernel, padding=(0, 0, 0), dtype=self.dtype, name=name)(x)


def check_filters(num_filters: Sequence[int], num_blocks: int) -> None:
    """Raise a UserError unless there is a filter count for each stage."""
    if num_filters and len(num_filters) != num_blocks + 1:
        raise UserError(
            f"model.num_filters has {len(num_filters)} entries; give model.num_blocks + 1 = {num_blocks + 1}"
        )
