"""The denoiser of Palette (Saharia et al. 2022, arXiv:2111.05826): the U-Net of guided diffusion (Dhariwal and Nichol
2021, arXiv:2105.05233), conditioned on an image and on a noise level.

Weight for weight the network of the code that DiffStain builds on (Janspiry's Palette, MIT), channels last.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from pydantic import Field

from vsjax.errors import UserError
from vsjax.models.conv_block import halve_plane
from vsjax.models.convolution import Conv
from vsjax.models.network import WIDEST, Blocks, DropRate, Expansion, Network, Slices, Width, numbered
from vsjax.models.shuffle import torch_uniform
from vsjax.models.unext2 import fold_depth, unfold_depth

Factor = Annotated[int, Field(ge=1, le=256, description="down-sampling, 1, 2, 4, ..., at which there is attention")]
HeadWidth = Annotated[int, Field(ge=0, le=WIDEST, description="features of an attention head; 0 makes one head of all")]
Classes = Annotated[int, Field(ge=0, le=65536, description="kinds of targets; 0 embeds none")]
Layers = tuple[tuple[str, int], ...]  # "same", "halve" or "double" of a residual layer, or "attention"; its width

ZEROS = nn.initializers.zeros
_GROUPS = 32  # of the norms; fewer where they do not divide the features
_LONGEST_PERIOD = 10_000.0
_MOST_SCORES = 1 << 28  # attention scores that are held at once


class Palette(Network):
    """The noise in a target, or what else the diffusion is trained for: `[B, out_depth, Y, X, out_channels]`, float32.

    `x` `[B, in_stack_depth, Y, X, in_channels]` is the image, `noisy` the noisy target, of the output's shape, `gamma`
    `[B]` its noise level (the product of 1 - beta up to its step), `label` `[B]` the target's class, where there are
    `classes`; the number `classes`, or None, stands for no class. Slices are folded into channels. Y and X must be
    divisible by `divisor`. Settings have the meaning of the authors'; `out_stack_depth` None means that of the input.
    In training it needs the random stream `dropout`.
    """

    in_stack_depth: Slices = 1
    out_stack_depth: Slices | None = None
    inner_channels: Width = 64
    channel_mults: Annotated[tuple[Expansion, ...], Field(min_length=1, max_length=9)] = (1, 2, 4, 8)
    res_blocks: Blocks = 2
    attention_factors: tuple[Factor, ...] = ()
    head_channels: HeadWidth = 32
    dropout: DropRate = 0.2
    classes: Classes = 0
    dtype: Any = jnp.float32

    predicts_by = "diffusion"

    @property
    def out_depth(self) -> int:
        """Slices that it predicts."""
        return self.out_stack_depth or self.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Each level but the last halves the plane."""
        stride = 2 ** (len(self.channel_mults) - 1)
        return 1, stride, stride

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Top-level modules of each part."""
        inputs, outputs = len(self._down()) + 1, len(self._up())
        return {
            "encoder": ("condition", *numbered("input", inputs), "middle"),
            "decoder": numbered("output", outputs),
            "head": ("out_norm", "out"),
        }

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the blocks; `input_0` is a single convolution."""
        return *self.parts["encoder"][1:], *self.parts["decoder"]

    def example(self, plane: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Image, noisy target, noise level and, where there are classes, the class."""
        noisy = jax.ShapeDtypeStruct((1, self.out_depth, *plane, self.out_channels), jnp.float32)
        gamma, label = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
        return *super().example(plane), noisy, gamma, *([label] if self.classes else [])

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        if self.out_depth > self.in_stack_depth:
            raise UserError(
                f"model.out_stack_depth = {self.out_stack_depth} must be at most model.in_stack_depth = "
                f"{self.in_stack_depth}"
            )
        for mult in self.channel_mults:
            width = mult * self.inner_channels
            if width > WIDEST:
                raise UserError(
                    f"model.inner_channels = {self.inner_channels} times {mult} of model.channel_mults makes layers of "
                    f"more than {WIDEST} features; take fewer"
                )
            if self.head_channels and width % self.head_channels:
                raise UserError(
                    f"model.head_channels = {self.head_channels} does not divide the {width} features of a level "
                    "(model.inner_channels times model.channel_mults); set a divisor, or 0 for one head"
                )

    @nn.compact
    def __call__(self, x: Array, noisy: Array, gamma: Array, label: Array | None = None, train: bool = False) -> Array:
        condition = Condition(self.inner_channels, self.classes, name="condition")(gamma, label)
        heads = self.head_channels
        h = jnp.concatenate([fold_depth(x), fold_depth(noisy)], axis=-1)
        first = self.channel_mults[0] * self.inner_channels
        h = Conv(first, (3, 3), dtype=self.dtype, name="input_0")(h)
        skips = [h]
        for i, layers in enumerate(self._down()):
            h = Block(layers, heads, self.dropout, self.dtype, name=f"input_{i + 1}")(h, condition, train)
            skips.append(h)
        width = self.channel_mults[-1] * self.inner_channels
        middle = (("same", width), ("attention", width), ("same", width))
        h = Block(middle, heads, self.dropout, self.dtype, name="middle")(h, condition, train)
        for i, layers in enumerate(self._up()):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = Block(layers, heads, self.dropout, self.dtype, name=f"output_{i}")(h, condition, train)
        h = nn.silu(group_norm(h.shape[-1], self.dtype, "out_norm")(h))
        last = self.out_channels * self.out_depth
        y = Conv(last, (3, 3), kernel_init=ZEROS, bias_init=ZEROS, dtype=self.dtype, name="out")(h)
        return unfold_depth(y, self.out_depth).astype(jnp.float32)

    def _down(self) -> list[Layers]:
        """What is in each block on the way down, after the first convolution."""
        blocks = []
        for level, mult in enumerate(self.channel_mults):
            width = mult * self.inner_channels
            blocks += [self._level(level, width)] * self.res_blocks
            if level < len(self.channel_mults) - 1:
                blocks.append((("halve", width),))
        return blocks

    def _up(self) -> list[Layers]:
        """What is in each block on the way up; the last of each level doubles the plane."""
        blocks = []
        for level, mult in reversed(list(enumerate(self.channel_mults))):
            width = mult * self.inner_channels
            blocks += [self._level(level, width)] * self.res_blocks
            blocks.append((*self._level(level, width), *([("double", width)] if level else [])))
        return blocks

    def _level(self, level: int, width: int) -> Layers:
        attends = 2**level in self.attention_factors
        return (("same", width), *([("attention", width)] if attends else []))


def noise_level_embedding(gamma: Array, width: int) -> Array:
    """Cosines, then sines, of the noise level at falling frequencies: `[B] -> [B, width]`; the last of an odd number is
    zero."""
    half = width // 2
    frequencies = jnp.exp(-math.log(_LONGEST_PERIOD) / half * jnp.arange(half)) if half else jnp.zeros(0)
    phases = gamma.astype(jnp.float32)[:, None] * frequencies
    waves = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, width % 2)))


class Condition(nn.Module):
    """What the blocks know of noise level and class: `[B], [B] -> [B, 4 * features]`.

    The class embedding is added to that of the noise level (class-guided diffusion: Cross-Zamirski et al. 2023,
    arXiv:2303.08863); its last row stands for no class, which guidance without a classifier needs (Ho and Salimans
    2022, arXiv:2207.12598). Computed in float32: bfloat16 would not tell the last noise levels from none.
    """

    features: int
    classes: int

    @nn.compact
    def __call__(self, gamma: Array, label: Array | None) -> Array:
        x = noise_level_embedding(gamma, self.features)
        x = nn.silu(_dense(4 * self.features, x, jnp.float32, "gamma_0"))
        x = _dense(4 * self.features, x, jnp.float32, "gamma_1")
        if not self.classes:
            return x
        embed = nn.Embed(self.classes + 1, 4 * self.features, embedding_init=nn.initializers.normal(1.0), name="label")
        label = jnp.full(gamma.shape, self.classes) if label is None else label
        return x + embed(label)


def _dense(features: int, x: Array, dtype: Any, name: str) -> Array:
    uniform = torch_uniform(x.shape[-1])
    return nn.Dense(features, dtype=dtype, kernel_init=uniform, bias_init=uniform, name=name)(x)


def group_norm(channels: int, dtype: Any, name: str) -> nn.GroupNorm:
    """Group norm with the authors' groups and PyTorch's epsilon; its statistics are in float32 whatever `dtype`."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), epsilon=1e-5, dtype=dtype, name=name)


class Block(nn.Module):
    """Residual layers and attention, one after the other: `[B, Y, X, C] -> [B, Y', X', features]`."""

    layers: Layers
    head_channels: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        for i, (kind, width) in enumerate(self.layers):
            if kind == "attention":
                x = SelfAttention(width // (self.head_channels or width), self.dtype, name=f"layer_{i}")(x)
            else:
                x = ResidualLayer(width, kind, self.dropout, self.dtype, name=f"layer_{i}")(x, condition, train)
        return x


class ResidualLayer(nn.Module):
    """Two 3x3 convolutions around a shortcut; the condition scales and shifts what is between them (FiLM).

    `[B, Y, X, C], [B, D] -> [B, Y', X', features]`; `kind` "halve" and "double" resample the plane before the first
    convolution, and the shortcut too.
    """

    features: int
    kind: str
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        h = nn.silu(group_norm(x.shape[-1], self.dtype, "norm_0")(x))
        if self.kind != "same":
            resample = halve_plane if self.kind == "halve" else _repeat_plane
            h, x = resample(h), resample(x)
        h = Conv(self.features, (3, 3), dtype=self.dtype, name="conv_0")(h)
        film = _dense(2 * self.features, nn.silu(condition), self.dtype, "film")[:, None, None]
        scale, shift = jnp.split(film, 2, axis=-1)
        h = nn.silu(group_norm(self.features, self.dtype, "norm_1")(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, (3, 3), kernel_init=ZEROS, bias_init=ZEROS, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        return x.astype(h.dtype) + h


def _repeat_plane(x: Array) -> Array:
    """Every pixel four times: `[B, Y, X, C] -> [B, 2Y, 2X, C]`."""
    batch, rows, columns, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, rows, 2, columns, 2, channels))
    return x.reshape(batch, 2 * rows, 2 * columns, channels)


class SelfAttention(nn.Module):
    """Every pixel attends to every other one, around a shortcut: `[B, Y, X, C] -> [B, Y, X, C]`."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, rows, columns, width = x.shape
        tokens = group_norm(width, self.dtype, "norm")(x).reshape(batch, rows * columns, width)
        qkv = _dense(3 * width, tokens, self.dtype, "qkv")
        # The authors' order: head by head its queries, keys and values.
        query, key, value = jnp.split(qkv.reshape(batch, rows * columns, self.heads, -1), 3, axis=-1)
        seen = attend(query, key, value).reshape(tokens.shape)
        seen = nn.Dense(width, dtype=self.dtype, kernel_init=ZEROS, name="proj")(seen)
        return x + seen.reshape(x.shape).astype(x.dtype)


def attend(query: Array, key: Array, value: Array, most_scores: int = _MOST_SCORES) -> Array:
    """Scaled dot-product attention, `[B, T, heads, D]` each, its softmax in float32.

    Queries are taken in as many parts as keep at most about `most_scores` scores in memory at once, which the gradient
    computes again.
    """
    batch, tokens, heads, _ = query.shape
    wanted = math.ceil(batch * heads * tokens**2 / most_scores)
    parts = next(count for count in range(min(wanted, tokens), tokens + 1) if tokens % count == 0)
    if parts == 1:
        return jax.nn.dot_product_attention(query, key, value)
    some = jax.checkpoint(lambda part: jax.nn.dot_product_attention(part, key, value))
    stacked = jnp.moveaxis(query.reshape(batch, parts, tokens // parts, heads, -1), 1, 0)
    return jnp.moveaxis(lax.map(some, stacked), 0, 1).reshape(query.shape)
