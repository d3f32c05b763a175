"""Planes of which only some square cells are visible, held without the others: what a masked encoder computes on.

The sparse network of ConvNeXt V2 (arXiv:2301.00808, section 2) with static shapes: where every sample has the same
number of visible cells, these are one dense array, and pointwise layers and their gradients cost as much less as cells
are hidden.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Cells:
    """Which cells of each sample are visible.

    Attributes:
        visible: `[B, V]` int32, their numbers, row by row in the grid.
        place: `[B, N]` int32, the place of each of the grid's cells among the visible ones; V for the hidden.
        grid: cells in Y and X.
    """

    visible: Array
    place: Array
    grid: tuple[int, int] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, visible: Array, grid: tuple[int, int]) -> "Cells":
        """From the numbers of the visible cells `[B, V]`."""
        count = visible.shape[1]
        places = jnp.full((len(visible), grid[0] * grid[1]), count, jnp.int32)
        put = jax.vmap(lambda place, cells: place.at[cells].set(jnp.arange(count, dtype=jnp.int32)))
        return cls(visible, put(places, visible), grid)

    def take(self, plane: Array) -> Array:
        """The visible cells: `[B, Y, X, C] -> [B, V, Y/rows, X/columns, C]`."""
        return _take(plane, self)

    def spread(self, cells: Array) -> Array:
        """The plane with zeros where it is hidden: `[B, V, y, x, C] -> [B, y*rows, x*columns, C]`."""
        return _spread(cells, self)


@jax.custom_vjp
def _take(plane: Array, cells: Cells) -> Array:
    batch, rows, columns, channels = plane.shape
    height, width = rows // cells.grid[0], columns // cells.grid[1]
    split = plane.reshape(batch, cells.grid[0], height, cells.grid[1], width, channels).transpose(0, 1, 3, 2, 4, 5)
    return _rows_of(split.reshape(batch, -1, height, width, channels), cells.visible)


@jax.custom_vjp
def _spread(seen: Array, cells: Cells) -> Array:
    batch, _, height, width, channels = seen.shape
    with_zeros = jnp.concatenate([seen, jnp.zeros_like(seen[:, :1])], axis=1)
    split = _rows_of(with_zeros, cells.place).reshape(batch, *cells.grid, height, width, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, cells.grid[0] * height, cells.grid[1] * width, channels)


def _rows_of(x: Array, index: Array) -> Array:
    """`[B, N, ...], [B, M] -> [B, M, ...]`."""
    return jax.vmap(lambda rows, places: rows.at[places].get(mode="promise_in_bounds"))(x, index)


# Each is the other's transpose: without these rules XLA would scatter, a cell at a time.
_take.defvjp(lambda plane, cells: (_take(plane, cells), cells), lambda cells, slope: (_spread(slope, cells), None))
_spread.defvjp(lambda seen, cells: (_spread(seen, cells), cells), lambda cells, slope: (_take(slope, cells), None))
