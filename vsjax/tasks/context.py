"""What a prediction may know beside its window: where the window lies, and what to draw."""

import jax
import jax.numpy as jnp
from flax import struct

from vsjax.models.frame import Frame

BLOCK = 32  # pixels: noise is drawn in blocks of so many by so many, which windows cut


@struct.dataclass
class Context:
    """Given to a family's `predict` with a batch of windows.

    Attributes:
        key: random key of the stack (of its position and time point) and of the draw.
        origin: `[B, 3]` int32, the voxel (z, y, x) of the stack where each window begins; negative in what was padded.
        turns: quarter turns by which the windows were rotated in the plane, for test-time augmentation.
        frame: where the images lie in the windows; None where they fill them, as always for families not `framed`.
        label: `[B]` int32, the class of each window's image; None where it has none.
    """

    key: jax.Array
    origin: jax.Array
    turns: int = struct.field(pytree_node=False, default=0)
    frame: Frame | None = None
    label: jax.Array | None = None

    def fold(self, data: int | jax.Array) -> "Context":
        """The same with the key of another purpose: a step of a loop, a stage of a chain."""
        return self.replace(key=jax.random.fold_in(self.key, data))

    def normal(self, shape: tuple[int, int, int, int, int], first_slice: int = 0) -> jax.Array:
        """White Gaussian noise as a function of the key and the absolute voxel: windows agree wherever they overlap,
        whatever tiles, z windows, batches or devices there are, and however the windows are turned.

        Args:
            shape: `[B, Z, Y, X, C]` of the windows as `predict` sees them.
            first_slice: the window's slice that is the noise's first one.
        """
        _, depth, rows, columns, channels = shape
        plane = (columns, rows) if self.turns % 2 else (rows, columns)
        origin = self.origin + jnp.array([first_slice, 0, 0])
        noise = jax.vmap(lambda start: _voxel_normal(self.key, start, (depth, *plane, channels)))(origin)
        return jnp.rot90(noise, self.turns, (-3, -2))


def apart(samples: int) -> jax.Array:
    """Origins `[B, 3]` of windows that are of different stacks: so far apart that no two have a voxel in common."""
    return jnp.arange(samples)[:, None] * jnp.array([1 << 16, 0, 0])


def _voxel_normal(key: jax.Array, start: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """Noise `[Z, Y, X, C]` from voxel `start` (z, y, x) on, cut out of the blocks that lie there."""
    depth, rows, columns, channels = shape
    first = start[1:] // BLOCK
    counts = tuple((size + 2 * BLOCK - 2) // BLOCK for size in (rows, columns))  # whatever the start is

    def block(z: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
        place = key
        for number in (z, y, x):
            place = jax.random.fold_in(place, number.astype(jnp.uint32))
        return jax.random.normal(place, (BLOCK, BLOCK, channels))

    along_x = jax.vmap(block, (None, None, 0))
    along_y = jax.vmap(along_x, (None, 0, None))
    along_z = jax.vmap(along_y, (0, None, None))
    y, x = (start_block + jnp.arange(count) for start_block, count in zip(first, counts, strict=True))
    blocks = along_z(start[0] + jnp.arange(depth), y, x)  # [Z, blocks in y, blocks in x, BLOCK, BLOCK, C]
    noise = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(depth, counts[0] * BLOCK, counts[1] * BLOCK, channels)
    offset = start[1:] - first * BLOCK
    return jax.lax.dynamic_slice(noise, (0, offset[0], offset[1], 0), shape)
