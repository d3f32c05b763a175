"""What training, inference and weight loading ask of a network: one base class of Linen modules."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import AfterValidator, Field


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("must be odd, so that a kernel has a middle")
    return size


# What the fields of networks may be: `registry.py` makes a document of a module's fields, which are annotated with
# these. The bounds are several times what any published network has; far beyond them tracing or memory has no end.
WIDEST = 8192
Channels = Annotated[int, Field(ge=1, le=1024, description="channels of an image")]
Slices = Annotated[int, Field(ge=1, le=1024, description="slices of a window")]
Width = Annotated[int, Field(ge=1, le=WIDEST, description="features of a layer")]
Blocks = Annotated[int, Field(ge=1, le=64, description="layers one after the other")]
Halvings = Annotated[int, Field(ge=1, le=8, description="how often the plane is halved")]
Expansion = Annotated[int, Field(ge=1, le=64, description="how many times wider a layer is")]
Stride = Annotated[int, Field(ge=1, le=256, description="voxels of the stem's kernel, which is its stride")]
Heads = Annotated[int, Field(ge=1, le=256, description="of the attention")]
Kernel = Annotated[int, Field(ge=1, le=31, description="voxels"), AfterValidator(_odd)]
DropRate = Annotated[float, Field(ge=0, lt=1, description="what is left out in training")]
Gain = Annotated[float, Field(gt=0, le=1e4, description="times the normalised input")]

Interval = tuple[int, int]  # the first and the last pixel


class Network(nn.Module):
    """A network from volumes `[B, Z, Y, X, in_channels]` to volumes `[B, out_depth, Y, X, out_channels]`.

    It is called as `network(x, train=False)`, where it is `framed` also with `frame=` (`frame.Frame`). Everything here
    is known before there are variables.

    Attributes:
        in_channels, out_channels: of the volumes that it sees and gives.
        in_stack_depth: slices that it sees.
        out_depth: slices that it gives, the middle ones.
        divisor: what the input's (Z, Y, X) must be divisible by.
        receptive_radius: how far it looks from a pixel in Y and X when it is not training; None if it sees the whole
            image.
        framed: whether it gives an image in a larger plane what it gives it alone.
        mask_stride: pixels in Y and X of one cell of the mask that it takes as `mask=`; None if it cannot be masked.
        predicts_by: the task whose family predicts with it; None if it gives features and no image.
        parts: the top-level modules of each part, from the input on. Parts are loaded or frozen together.
        stages: paths of the convolutional stages in the order in which they are computed.
    """

    in_channels: Channels = 1
    out_channels: Channels = 1

    receptive_radius = None
    framed = False
    mask_stride = None
    predicts_by = "regression"

    if TYPE_CHECKING:  # every network says these itself, as a field or a property
        in_stack_depth: int
        out_depth: int
        divisor: tuple[int, int, int]
        parts: Mapping[str, Sequence[str]]
        stages: tuple[str, ...]

    def example(self, plane: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What it is called with for one sample of so many pixels; networks that take more than a volume say so."""
        return (jax.ShapeDtypeStruct((1, self.in_stack_depth, *plane, self.in_channels), jnp.float32),)

    @property
    def feature_stage(self) -> str:
        """The stage whose output stands for an image where features are wanted: the encoder's last but one."""
        encoder = [stage for stage in self.stages if stage.split("/")[0] in self.parts["encoder"]]
        return encoder[max(0, len(encoder) - 2)]

    def with_plain_convolutions(self) -> Self:
        """The same network with every convolution written as one, for counting its products."""
        return self

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot work."""


def unet_radius(
    halvings: int,
    *,
    block: int,
    bottom: int,
    first: int = 0,
    last: int,
    halving: Callable[[Interval], Interval],
    doubling: Callable[[Interval], Interval],
) -> int:
    """How far a U-Net looks from a pixel of its output, along one axis.

    Follows the path through the bottom back to the input, from every place that a pixel can have on the coarsest grid;
    the paths through the skips see less.

    Args:
        halvings: how often the plane is halved.
        block, bottom, first, last: how far the convolutions of a block look together, those at the bottom, those before
            the encoder and those after the decoder.
        halving, doubling: what of their input these see for an interval of their output.
    """

    def reach(pixel: int) -> int:
        seen = _widened((pixel, pixel), last)
        for _ in range(halvings):
            seen = doubling(_widened(seen, block))
        seen = _widened(seen, bottom)
        for _ in range(halvings):
            seen = _widened(halving(seen), block)
        low, high = _widened(seen, first)
        return max(pixel - low, high - pixel)

    return max(map(reach, range(2**halvings)))


def _widened(interval: Interval, by: int) -> Interval:
    return interval[0] - by, interval[1] + by


def numbered(name: str, count: int) -> tuple[str, ...]:
    """`name_0`, `name_1`, ..."""
    return tuple(f"{name}_{i}" for i in range(count))
