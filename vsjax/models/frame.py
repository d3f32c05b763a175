"""An image in a larger plane: networks that are compiled once for images of several sizes.

What lies beside the image is kept out of every sum that would reach it: convolutions see zeros there, as they do beyond
the border of an image alone, statistics leave it out, and interpolation repeats the image's own border. So the image
comes out as it would alone, to rounding.
"""

import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Frame:
    """Where an image lies in the plane that a network is given.

    Attributes:
        region: `[4]` int32: its first row, the row after its last, its first column, the column after its last;
            multiples of the network's divisor, so that every stage knows them in its own pixels.
        plane: (Y, X) of the network's input.
    """

    region: Array
    plane: tuple[int, int] = struct.field(pytree_node=False)

    def along(self, axis: int, size: int) -> tuple[Array, Array]:
        """First place of the image, and the one after its last, along Y (0) or X (1) at a stage of so many places."""
        first, end = self.region[2 * axis : 2 * axis + 2] * size // self.plane[axis]
        return first, end

    def at(self, rows: int, columns: int) -> Array:
        """Where the image is at a stage of so many pixels: `[1, Y, X, 1]` bool."""
        inside = []
        for axis, size in enumerate((rows, columns)):
            first, end = self.along(axis, size)
            place = jnp.arange(size)
            inside.append((first <= place) & (place < end))
        return (inside[0][:, None] & inside[1])[None, :, :, None]


def keep(x: Array, frame: Frame | None) -> Array:
    """Zeros beside the image: `[..., Y, X, C]` to the same; None is an image that fills the plane."""
    return x if frame is None else jnp.where(frame.at(*x.shape[-3:-1]), x, jnp.zeros((), x.dtype))


def visible_after(x: Array, stride: int, frame: Frame | None) -> Array | None:
    """The mask `[B, Y/stride, X/stride, 1]`, in x's type, that `ConvNeXtStage` takes; None where there is no frame."""
    if frame is None:
        return None
    batch, rows, columns, _ = x.shape
    seen = frame.at(rows // stride, columns // stride)
    return jnp.broadcast_to(seen, (batch, *seen.shape[1:])).astype(x.dtype)


def image_mean(x: Array, frame: Frame | None) -> Array:
    """The mean of each sample and channel over the image: `[B, ..., Y, X, C] -> [B, ..., 1, 1, C]` with ones."""
    axes = tuple(range(1, x.ndim - 1))
    mean = keep(x, frame).mean(axis=axes, keepdims=True)
    if frame is None:
        return mean
    for axis, size in enumerate(x.shape[-3:-1]):
        first, end = frame.along(axis, size)
        mean = mean * (size / (end - first).astype(x.dtype))
    return mean
