"""DoDNet (Zhang et al. 2021, arXiv 2011.10217, section 3): a 2-D U-Net whose last layers are made anew for each image
and stain.

A controller sees what the whole image is like and which stain is asked for, and says the weights of three 1x1
convolutions. In the paper a task is an organ; here it is a stain, and all of them come out together. The U-Net is
`UNet2D`'s, so that the head alone is what the two differ in.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from vsjax.models.conv_block import ConvBlock, unet
from vsjax.models.convolution import Conv
from vsjax.models.frame import Frame, image_mean
from vsjax.models.network import Blocks, DropRate, Halvings, Kernel, Network, Slices, Width, numbered
from vsjax.models.unet25d import check_filters

WIDTHS = (8, 8, 8, 1)  # of the features, and of what each convolution of the dynamic head gives
LAYERS = tuple(pairwise(WIDTHS))
PARAMETERS = sum(inputs * outputs + outputs for inputs, outputs in LAYERS)  # of a stain: 153


class DoDNet(Network):
    """`[B, in_stack_depth, Y, X, in_channels] -> [B, 1, Y, X, out_channels]`, float32 out; slices are seen as channels.

    Y and X must be divisible by `divisor`. Settings are `UNet2D`'s.
    """

    in_stack_depth: Slices = 1
    kernel_size: tuple[Kernel, Kernel] = (3, 3)
    residual: bool = False
    dropout: DropRate = 0.0  # as in the paper: what is left out of the pooled features moves every dynamic kernel
    num_blocks: Halvings = 4
    num_block_layers: Blocks = 2
    num_filters: tuple[Width, ...] = ()
    dtype: Any = jnp.float32

    framed = True

    @property
    def out_depth(self) -> int:
        """One slice."""
        return 1

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Each block of the encoder halves the plane."""
        return 1, 2**self.num_blocks, 2**self.num_blocks

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        return {
            "encoder": (*numbered("down", self.num_blocks), "bottom"),
            "decoder": numbered("up", self.num_blocks),
            "head": ("features", "controller"),
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
        def block(features: int, name: str) -> ConvBlock:
            size, layers = tuple(self.kernel_size), self.num_block_layers
            return ConvBlock(features, size, layers, self.dropout, self.residual, dtype=self.dtype, name=name)

        filters = self.num_filters or [16 * 2**i for i in range(self.num_blocks + 1)]
        planes = jnp.moveaxis(x, 1, 3).reshape(x.shape[0], *x.shape[2:4], -1)
        bottom, x = unet(planes, filters, block, train, frame)
        image = image_mean(bottom, frame)[:, 0]  # [B, 1, C]
        stains = self.out_channels
        image = jnp.broadcast_to(image, (len(image), stains, image.shape[-1]))
        codes = jnp.broadcast_to(jnp.eye(stains, dtype=image.dtype), (len(image), stains, stains))
        asked = jnp.concatenate([image, codes], axis=-1)[:, :, None]
        parameters = Conv(PARAMETERS, (1, 1), dtype=self.dtype, name="controller")(asked)[:, :, 0]
        features = Conv(WIDTHS[0], (1, 1), dtype=self.dtype, name="features")(x)
        return dynamic_head(features, parameters)[:, None].astype(jnp.float32)


def dynamic_head(features: Array, parameters: Array) -> Array:
    """Three 1x1 convolutions with ReLU between, of each image and stain its own: `[B, Y, X, 8]`, `[B, stains, 153]` ->
    `[B, Y, X, stains]`. The parameters are kernel `[inputs, outputs]` and bias, layer by layer."""
    batch, stains, _ = parameters.shape
    ends = np.cumsum([part for inputs, outputs in LAYERS for part in (inputs * outputs, outputs)])
    parts = jnp.split(parameters, ends[:-1], axis=-1)
    x = features[:, None]  # [B, stains, Y, X, C]
    for number, (kernel, bias, (inputs, outputs)) in enumerate(zip(parts[::2], parts[1::2], LAYERS, strict=True)):
        x = nn.relu(x) if number else jnp.broadcast_to(x, (batch, stains, *x.shape[2:]))
        kernel = kernel.reshape(batch, stains, inputs, outputs)
        x = jnp.einsum("bkyxi,bkio->bkyxo", x, kernel) + bias[:, :, None, None]
    return jnp.moveaxis(x[..., 0], 1, -1)
