"""The fully convolutional masked autoencoder of VisCy (Liu et al. 2025; ConvNeXt V2, arXiv:2301.00808, section 2): the
network of pre-training, and without a mask that of VSCyto2D and of VSCyto3D's 15-slice form.

Weight for weight VisCy's `FullyConvolutionalMAE`, channels last.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from vsjax.errors import UserError
from vsjax.models.convnext import NARROW_NORMAL, ConvNeXtStage, LayerNorm
from vsjax.models.convolution import PatchConv
from vsjax.models.depthwise import Implementation
from vsjax.models.frame import Frame, visible_after
from vsjax.models.network import Blocks, DropRate, Expansion, Network, Slices, Stride, Width, numbered
from vsjax.models.shuffle import blur_after_shuffle, pixel_shuffle, torch_uniform
from vsjax.models.unext2 import Decoder, VolumeHead, check_stem, fold_depth, unfold_depth

# PyTorch's default, which VisCy's masked blocks keep; timm's blocks in the decoder have 1e-6.
_ENCODER_NORM_EPSILON = 1e-5


def random_mask(key: Array, batch: int, grid: tuple[int, int], ratio: float) -> Array:
    """Draw which cells are hidden: `[batch, *grid]` bool, `int(cells * ratio)` of them True in each sample.

    `grid` is the image plane divided by the network's `mask_stride`. One mask serves all channels and slices.
    """
    cells = grid[0] * grid[1]
    order = jnp.argsort(jax.random.uniform(key, (batch, cells)), axis=1)
    return (order < int(cells * ratio)).reshape(batch, *grid)


def enlarge_mask(mask: Array, factor: int | tuple[int, int]) -> Array:
    """Repeat each cell `factor` times in Y and X: `[B, y, x] -> [B, y*factor, x*factor]`."""
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    return jnp.repeat(jnp.repeat(mask, rows, axis=1), columns, axis=2)


class AdaptiveStem(nn.Module):
    """Cut a stack (by a 3-D convolution) or a single slice (by a 2-D one) into patches, and normalise them.

    `[B, Z, Y, X, C] -> [B, Y/ky, X/kx, features]`.
    """

    features: int
    kernel_size: tuple[int, int, int]
    in_stack_depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        folds = self.in_stack_depth // self.kernel_size[0]
        deep = x.shape[1] > 1
        uniform = torch_uniform(x.shape[-1] * math.prod(self.kernel_size))
        stack = PatchConv(self.features // folds, self.kernel_size, uniform, uniform, self.dtype, name="conv3d")
        plane = PatchConv(self.features, self.kernel_size[1:], NARROW_NORMAL, dtype=self.dtype, name="conv2d")
        from_stack, from_plane = stack(x, deep), plane(x[:, 0], not deep)
        patches = fold_depth(from_stack) if deep else from_plane
        return LayerNorm(_ENCODER_NORM_EPSILON, name="norm")(patches)


class ShuffleHead(nn.Module):
    """Shuffle up to the input's plane, blur, and unfold depth: VisCy's `PixelToVoxelShuffleHead`; no parameters.

    `[B, Y, X, out_channels*depth*scale²] -> [B, depth, Y*scale, X*scale, out_channels]`.
    """

    depth: int
    scale: int

    def __call__(self, x: Array) -> Array:
        return unfold_depth(blur_after_shuffle(pixel_shuffle(x, self.scale), self.scale), self.depth)


class FCMAE(Network):
    """`[B, in_stack_depth, Y, X, in_channels] -> [B, in_stack_depth, Y, X, out_channels]`, float32 out.

    The optional `mask` `[B, Y/mask_stride, X/mask_stride]` (True = hidden) is for the encoder. Y and X must be
    divisible by `divisor`. Settings have VisCy's names; as there, the width of the convolution head's input follows
    `in_channels`.
    """

    encoder_blocks: Annotated[tuple[Blocks, ...], Field(min_length=2, max_length=8)] = (3, 3, 9, 3)
    dims: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)] = (96, 192, 384, 768)
    encoder_drop_path_rate: DropRate = 0.0
    stem_kernel_size: tuple[Stride, Stride, Stride] = (5, 4, 4)
    in_stack_depth: Slices = 5
    decoder_conv_blocks: Blocks = 1
    head_conv: bool = False
    head_conv_expansion_ratio: Expansion = 4
    head_conv_pool: bool = True
    depthwise: Implementation = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    framed = True

    @property
    def out_depth(self) -> int:
        """As many slices as it sees."""
        return self.in_stack_depth

    @property
    def mask_stride(self) -> int:
        """The encoder's total stride."""
        return self.stem_kernel_size[1] * 2 ** (len(self.dims) - 1)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """The stem's depth and the total stride."""
        return self.stem_kernel_size[0], self.mask_stride, self.mask_stride

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        return {"encoder": ("stem", *numbered("encoder", len(self.dims))), "decoder": ("decoder",), "head": ("head",)}

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the convolutional stages."""
        return *numbered("encoder", len(self.dims)), *numbered("decoder/stage", len(self.dims) - 1)

    def with_plain_convolutions(self) -> Self:
        """The same network with its depthwise products written as convolutions."""
        return self.clone(depthwise="conv")

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        check_stem(self.in_stack_depth, self.stem_kernel_size, self.dims[0])
        plane = tuple(self.stem_kernel_size[1:])
        if len(self.encoder_blocks) != len(self.dims):
            raise UserError(
                f"model.encoder_blocks has {len(self.encoder_blocks)} stages and model.dims {len(self.dims)}; "
                "give one number for each stage in both"
            )
        if plane[0] != plane[1] or (self.head_conv and plane != (4, 4)):
            wanted = "4, because model.head_conv enlarges by 4" if self.head_conv else "equal"
            raise UserError(f"model.stem_kernel_size = {tuple(self.stem_kernel_size)}: the last two must be {wanted}")

    @nn.compact
    def __call__(self, x: Array, train: bool = False, mask: Array | None = None, frame: Frame | None = None) -> Array:
        x = AdaptiveStem(self.dims[0], tuple(self.stem_kernel_size), self.in_stack_depth, self.dtype, name="stem")(x)
        features = []
        for i, (blocks, width) in enumerate(zip(self.encoder_blocks, self.dims, strict=True)):
            stride = 1 if i == 0 else 2
            visible = visible_after(x, stride, frame)
            if mask is not None:
                visible = ~enlarge_mask(mask, 2 ** (len(self.dims) - 1 - i))[..., None]
                visible = visible.astype(self.dtype)
            stage = ConvNeXtStage(
                width,
                drop_path_rates=(self.encoder_drop_path_rate,) * blocks,
                stride=stride,
                norm_epsilon=_ENCODER_NORM_EPSILON,
                depthwise_bias=False,
                depthwise=self.depthwise,
                remat=self.remat,
                dtype=self.dtype,
                name=f"encoder_{i}",
            )
            x = stage(x, train, visible)
            features.append(x)
        depth, scale = self.in_stack_depth, self.stem_kernel_size[2]
        if self.head_conv:
            last = (depth + 2) * self.in_channels * 4 * self.head_conv_expansion_ratio
        else:
            last = self.out_channels * depth * scale**2
        x = Decoder(
            (*self.dims[-2:0:-1], last),
            self.decoder_conv_blocks,
            depthwise=self.depthwise,
            remat=self.remat,
            dtype=self.dtype,
            name="decoder",
        )(features, train, frame)
        if self.head_conv:
            ratio, pool = self.head_conv_expansion_ratio, self.head_conv_pool
            x = VolumeHead(self.out_channels, depth, ratio, pool, self.dtype, name="head")(x, frame)
        else:
            x = ShuffleHead(depth, scale, name="head")(x)
        return x.astype(jnp.float32)
