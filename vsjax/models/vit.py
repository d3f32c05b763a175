"""Vision transformers whose features segment without training: DINO (Caron et al. 2021, arXiv:2104.14294) and DINOv2
(Oquab et al. 2023, arXiv:2304.07193; registers: Darcet et al. 2023, arXiv:2309.16588).

Weight for weight timm's `VisionTransformer`, with the authors' names for what their checkpoints have.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from vsjax.errors import UserError
from vsjax.models.convnext import NARROW_NORMAL, LayerNorm
from vsjax.models.convolution import PatchConv
from vsjax.models.network import Blocks, Channels, Expansion, Heads, Network, Stride, Width, numbered

Side = Annotated[int, Field(ge=1, le=8192, description="pixels of the square image that positions are stored for")]
Scale = Annotated[float, Field(gt=0, le=1, description="what the scale of each residual branch begins with")]
Registers = Annotated[int, Field(ge=0, le=64, description="tokens that stand for no patch, beside the class token")]


class ViT(Network):
    """`[B, 1, Y, X, 3]` to the keys of the last block's attention and to its features, `[B, tokens, embed_dim]` each,
    float32: first the class token, then registers, then the patches row by row; heads are joined.

    Images are RGB in ImageNet's normalisation. It predicts no image. Settings have timm's names; `init_values` None is
    a network without LayerScale. For planes other than `img_size` squared the position embedding is resampled.
    """

    in_channels: Channels = 3
    patch_size: Stride = 8
    embed_dim: Width = 384
    depth: Blocks = 12
    num_heads: Heads = 6
    mlp_ratio: Expansion = 4
    qkv_bias: bool = True
    init_values: Scale | None = None
    reg_tokens: Registers = 0
    img_size: Side = 224
    dtype: Any = jnp.float32

    predicts_by = None

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
        """Whole patches."""
        return 1, self.patch_size, self.patch_size

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """It is an encoder and nothing else."""
        return {"encoder": ("embed", *self.stages, "norm")}

    @property
    def stages(self) -> tuple[str, ...]:
        """Paths of the blocks, which put out tokens."""
        return numbered("block", self.depth)

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""
        if self.in_channels != 3:
            raise UserError(
                f"model.in_channels = {self.in_channels}: a ViT of these weights sees red, green, blue; set 3"
            )
        for whole, part in (("embed_dim", "num_heads"), ("img_size", "patch_size")):
            if getattr(self, whole) % getattr(self, part):
                raise UserError(
                    f"model.{whole} = {getattr(self, whole)} is not divisible by model.{part} = {getattr(self, part)}; "
                    "change one of the two"
                )

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        stored = self.img_size // self.patch_size
        embed = PatchTokens(self.embed_dim, self.patch_size, stored, self.reg_tokens, self.dtype, name="embed")
        x = embed(x[:, 0])
        for name in self.stages:
            block = TransformerBlock(
                self.num_heads, self.mlp_ratio, self.qkv_bias, self.init_values, self.dtype, name=name
            )
            x, keys = block(x)
        return keys.astype(jnp.float32), LayerNorm(name="norm")(x).astype(jnp.float32)

    def features(self, x: Array) -> Array:
        """The last block's keys on the grid of patches: `[B, 1, Y, X, 3] -> [B, Y/patch_size, X/patch_size, D]`."""
        keys, _ = self(x)
        return self.on_grid(keys, x.shape[2:4])

    def on_grid(self, tokens: Array, plane: tuple[int, int]) -> Array:
        """The patches' tokens where they lie in an image of so many pixels: `[B, tokens, D] -> [B, y, x, D]`."""
        rows, columns = (size // self.patch_size for size in plane)
        return tokens[:, 1 + self.reg_tokens :].reshape(len(tokens), rows, columns, -1)


class PatchTokens(nn.Module):
    """Class token, registers, and patches with their positions: `[B, Y, X, C] -> [B, tokens, features]`.

    Positions are stored for `stored` x `stored` patches and the class token; registers have none.
    """

    features: int
    patch_size: int
    stored: int
    registers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = (self.patch_size, self.patch_size)
        patches = PatchConv(self.features, size, NARROW_NORMAL, dtype=self.dtype, name="patches")(x)
        batch, *grid, _ = patches.shape
        first = self.param("cls_token", NARROW_NORMAL, (1, 1, self.features))
        places = self.param("pos_embed", NARROW_NORMAL, (1, 1 + self.stored**2, self.features))
        patches = patches + resample_positions(places[0, 1:], self.stored, grid).astype(self.dtype)
        leading = [first + places[:, :1]]
        if self.registers:
            leading.append(self.param("reg_token", NARROW_NORMAL, (1, self.registers, self.features)))
        leading = jnp.broadcast_to(jnp.concatenate(leading, axis=1), (batch, 1 + self.registers, self.features))
        return jnp.concatenate([leading.astype(self.dtype), patches.reshape(batch, -1, self.features)], axis=1)


def resample_positions(places: Array, stored: int, grid: Sequence[int]) -> Array:
    """Position embeddings of a square grid on another one: `[stored², D] -> [y, x, D]`.

    By cubic interpolation (a = -1/2) between the patches' centres, its kernel widened where the grid is coarser: what
    PyTorch calls antialiased bicubic, as in timm's `resample_abs_pos_embed`.
    """
    places = places.reshape(stored, stored, -1)
    if tuple(grid) == (stored, stored):
        return places
    return jax.image.resize(places, (*grid, places.shape[-1]), method="cubic", antialias=True)


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added: `[B, T, D]` to the same, and the
    attention's keys `[B, T, D]`."""

    num_heads: int
    mlp_ratio: int
    qkv_bias: bool
    layer_scale: float | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        batch, count, width = x.shape
        qkv = nn.Dense(3 * width, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv")(LayerNorm(name="norm1")(x))
        query, keys, value = jnp.split(qkv, 3, axis=-1)
        heads = (batch, count, self.num_heads, width // self.num_heads)
        seen = jax.nn.dot_product_attention(query.reshape(heads), keys.reshape(heads), value.reshape(heads))
        seen = nn.Dense(width, dtype=self.dtype, name="proj")(seen.reshape(x.shape))
        if self.layer_scale:
            seen = LayerScale(self.layer_scale, name="ls1")(seen)
        x = x + seen
        hidden = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="fc1")(LayerNorm(name="norm2")(x))
        out = nn.Dense(width, dtype=self.dtype, name="fc2")(nn.gelu(hidden, approximate=False))
        if self.layer_scale:
            out = LayerScale(self.layer_scale, name="ls2")(out)
        return x + out, keys


class LayerScale(nn.Module):
    """Each feature times a learned number that begins at `start` (Touvron et al. 2021, arXiv:2103.17239)."""

    start: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x * self.param("gamma", nn.initializers.constant(self.start), (x.shape[-1],)).astype(x.dtype)
