"""UNeXt2 (Liu et al. 2025, "Robust virtual staining of landmark organelles"): a 3-D stem that folds depth into
channels, a ConvNeXt V2 encoder, a decoder of pixel shuffles, and a head that unfolds depth again.

Weight for weight the network of VisCy's `UNeXt2`, channels last.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from pydantic import ValidationError, WrapValidator

from vsjax.errors import UserError
from vsjax.models.convnext import ConvNeXtStage, LayerNorm, linear_drop_path_rates
from vsjax.models.convolution import Conv, PatchConv
from vsjax.models.depthwise import Implementation
from vsjax.models.frame import Frame, image_mean, keep, visible_after
from vsjax.models.network import Blocks, DropRate, Expansion, Gain, Network, Slices, Stride, Width, numbered
from vsjax.models.shuffle import blur_after_shuffle, icnr, pixel_shuffle, torch_uniform

Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # blocks and channels of each stage

# ConvNeXt V2, Table 1 of its paper.
BACKBONES: dict[str, Sizes] = {
    "convnextv2_atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnextv2_femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnextv2_pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnextv2_nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}


def _check_backbone(value: Any, check: Callable[[Any], Any]) -> Any:
    """One message for a value that is neither a name nor sizes."""
    try:
        return check(value)
    except ValidationError as error:
        raise ValueError(
            f"it must be one of {', '.join(BACKBONES)}, or (blocks, channels) of four stages each, such as "
            "((2, 2, 6, 2), (40, 80, 160, 320)), of at most 64 blocks and 8192 channels"
        ) from error


_Stages = tuple[tuple[Blocks, Blocks, Blocks, Blocks], tuple[Width, Width, Width, Width]]
Backbone = Annotated[Literal[tuple(BACKBONES)] | _Stages, WrapValidator(_check_backbone)]


class VolumeStem(nn.Module):
    """Cut a volume into patches and fold what is left of its depth into channels.

    `[B, Z, Y, X, C] -> [B, Y/ky, X/kx, features]`; the channels are ordered channel first, then depth.
    """

    features: int
    kernel_size: tuple[int, int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        folds = x.shape[1] // self.kernel_size[0]
        init = torch_uniform(x.shape[-1] * self.kernel_size[0] * self.kernel_size[1] * self.kernel_size[2])
        x = PatchConv(self.features // folds, self.kernel_size, init, init, self.dtype, name="conv")(x)
        return fold_depth(x)


def fold_depth(x: Array) -> Array:
    """`[B, Z, Y, X, C] -> [B, Y, X, C*Z]`, channel first."""
    batch, depth, rows, columns, channels = x.shape
    return x.transpose(0, 2, 3, 4, 1).reshape(batch, rows, columns, channels * depth)


def unfold_depth(x: Array, depth: int) -> Array:
    """`[B, Y, X, C*Z] -> [B, Z, Y, X, C]`: the inverse of `fold_depth`."""
    batch, rows, columns, channels = x.shape
    return x.reshape(batch, rows, columns, channels // depth, depth).transpose(0, 4, 1, 2, 3)


class UpStage(nn.Module):
    """Double the plane by pixel shuffle, join the encoder's features of that size, and refine with ConvNeXt blocks.

    `[B, Y, X, C], [B, 2Y, 2X, S] -> [B, 2Y, 2X, features]`. With `pre_conv` a 3x3 convolution comes before the shuffle.
    """

    features: int
    blocks: int
    pre_conv: bool = False
    depthwise: Implementation = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, skip: Array, train: bool, frame: Frame | None = None) -> Array:
        if self.pre_conv:
            mid = x.shape[-1] // 4 * 4
            x = Conv(mid, (3, 3), kernel_init=icnr(2), dtype=self.dtype, name="pre_conv")(x)
        x = jnp.concatenate([pixel_shuffle(x, 2), skip.astype(x.dtype)], axis=-1)
        stage = ConvNeXtStage(
            self.features,
            drop_path_rates=(0.0,) * self.blocks,
            depthwise=self.depthwise,
            remat=self.remat,
            dtype=self.dtype,
            name="stage",
            **({} if self.pre_conv else {"last_kernel_init": icnr(2)}),
        )
        return stage(x, train, visible_after(x, 1, frame))


class Decoder(nn.Module):
    """Up-stages from the coarsest features to the finest: `[finest, ..., coarsest] -> [B, Y, X, channels[-1]]`.

    `channels` are the widths after each stage; there is one stage fewer than there are features.
    """

    channels: Sequence[int]
    blocks: int
    pre_conv: bool = False
    depthwise: Implementation = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Array], train: bool, frame: Frame | None = None) -> Array:
        x = features[-1]
        for i, (width, skip) in enumerate(zip(self.channels, features[-2::-1], strict=True)):
            stage = UpStage(
                width, self.blocks, self.pre_conv, self.depthwise, self.remat, self.dtype, name=f"stage_{i}"
            )
            x = stage(x, skip, train, frame)
        return x


class VolumeHead(nn.Module):
    """Unfold depth, mix it with 3x3x3 and 1x1x1 convolutions, and shuffle up by four: VisCy's `PixelToVoxelHead`.

    `[B, Y, X, C] -> [B, out_stack_depth, 4Y, 4X, out_channels]`, C divisible by `4 * (out_stack_depth + 2)`.
    """

    out_channels: int
    out_stack_depth: int
    expansion_ratio: int
    pool: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, frame: Frame | None = None) -> Array:
        x = pixel_shuffle(x, 2)
        x = keep(blur_after_shuffle(x, 2), frame) if self.pool else x
        x = unfold_depth(x, self.out_stack_depth + 2)
        mid = self.out_channels * self.expansion_ratio * 4
        x = Conv(mid, (3, 3, 3), padding=(0, 1, 1), dtype=self.dtype, name="conv")(x)
        x = instance_norm(x, frame)
        slope = self.param("slope", nn.initializers.constant(0.25), (1,))
        x = jnp.where(x >= 0, x, slope.astype(x.dtype) * x)
        init = torch_uniform(mid)
        x = nn.Dense(4 * self.out_channels, kernel_init=icnr(2), bias_init=init, dtype=self.dtype, name="project")(x)
        return pixel_shuffle(x, 2)


def instance_norm(x: Array, frame: Frame | None = None, epsilon: float = 1e-5) -> Array:
    """Normalise each channel of each sample over space, without parameters, in float32: `[B, ..., Y, X, C]`."""
    wide = x.astype(jnp.float32)
    centred = wide - image_mean(wide, frame)
    variance = image_mean(jnp.square(centred), frame)
    return (centred / jnp.sqrt(variance + epsilon)).astype(x.dtype)


class UNeXt2(Network):
    """`[B, in_stack_depth, Y, X, in_channels] -> [B, out_stack_depth, Y, X, out_channels]`, float32 out.

    Y and X must be divisible by `divisor`. Settings have VisCy's names; `out_stack_depth` None means that of the
    input. `backbone` is a name of `BACKBONES`, or blocks and channels of the four stages: `((1, 1, 1, 1), (8, 16, 24,
    32))`. `depthwise` chooses how depthwise convolutions are computed (see `depthwise_conv`), `dtype` the type that
    the network computes in; parameters and norms are float32. `remat` trades time for memory in training.

    `input_gain` multiplies the normalised input. The norm after the stem divides every pixel's features by their
    spread, and with it takes away how strong the local contrast is; features that are small against the stem's biases
    pass it in proportion. 1 is the published network; 0.2 learns faster from few images.
    """

    in_stack_depth: Slices = 5
    out_stack_depth: Slices | None = None
    backbone: Backbone = "convnextv2_tiny"
    stem_kernel_size: tuple[Stride, Stride, Stride] = (5, 4, 4)
    decoder_conv_blocks: Blocks = 2
    decoder_upsample_pre_conv: bool = False
    head_pool: bool = False
    head_expansion_ratio: Expansion = 4
    drop_path_rate: DropRate = 0.0
    input_gain: Gain = 1.0
    depthwise: Implementation = "auto"
    remat: bool = False
    dtype: Any = jnp.float32

    framed = True

    @property
    def sizes(self) -> Sizes:
        """Blocks and channels of each stage of the encoder."""
        return BACKBONES[self.backbone] if isinstance(self.backbone, str) else self.backbone

    @property
    def out_depth(self) -> int:
        """Slices that it predicts."""
        return self.out_stack_depth or self.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """The stem's stride and the encoder's three halvings."""
        z, y, x = self.stem_kernel_size
        return z, 8 * y, 8 * x

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        return {"encoder": ("stem", "stem_norm", *numbered("encoder", 4)), "decoder": ("decoder",), "head": ("head",)}

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the convolutional stages."""
        return *numbered("encoder", 4), *numbered("decoder/stage", 3)

    def with_plain_convolutions(self) -> Self:
        """The same network with its depthwise products written as convolutions."""
        return self.clone(depthwise="conv")

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        check_stem(self.in_stack_depth, self.stem_kernel_size, self.sizes[1][0])
        if tuple(self.stem_kernel_size[1:]) != (4, 4):
            raise UserError(
                f"model.stem_kernel_size = {tuple(self.stem_kernel_size)}: the head of UNeXt2 enlarges by 4, "
                "so the last two must be 4"
            )

    @nn.compact
    def __call__(self, x: Array, train: bool = False, frame: Frame | None = None) -> Array:
        depths, dims = self.sizes
        x = VolumeStem(dims[0], tuple(self.stem_kernel_size), self.dtype, name="stem")(x * self.input_gain)
        x = LayerNorm(name="stem_norm")(x)
        features = []
        for i, rates in enumerate(linear_drop_path_rates(depths, self.drop_path_rate)):
            stride = 1 if i == 0 else 2
            stage = ConvNeXtStage(
                dims[i],
                drop_path_rates=tuple(rates),
                stride=stride,
                depthwise=self.depthwise,
                remat=self.remat,
                dtype=self.dtype,
                name=f"encoder_{i}",
            )
            x = stage(x, train, visible_after(x, stride, frame))
            features.append(x)
        channels = (*dims[-2:0:-1], (self.out_depth + 2) * self.out_channels * 4 * self.head_expansion_ratio)
        x = Decoder(
            channels,
            self.decoder_conv_blocks,
            self.decoder_upsample_pre_conv,
            self.depthwise,
            self.remat,
            self.dtype,
            name="decoder",
        )(features, train, frame)
        head = VolumeHead(
            self.out_channels, self.out_depth, self.head_expansion_ratio, self.head_pool, self.dtype, name="head"
        )
        return head(x, frame).astype(jnp.float32)


def check_stem(in_stack_depth: int, kernel_size: tuple[int, int, int], width: int) -> None:
    """Raise a UserError if the stem cannot cut this depth into patches or spread the first stage's width over them."""
    if in_stack_depth % kernel_size[0]:
        raise UserError(
            f"model.in_stack_depth = {in_stack_depth} is not divisible by {kernel_size[0]}, the depth in "
            f"model.stem_kernel_size; change one of the two"
        )
    folds = in_stack_depth // kernel_size[0]
    if width % folds:
        raise UserError(
            f"model.in_stack_depth = {in_stack_depth} makes {folds} patches in depth with model.stem_kernel_size = "
            f"{tuple(kernel_size)}, which do not divide the {width} channels of the first stage; "
            "take a deeper stem kernel"
        )
