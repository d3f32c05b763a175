"""The z sliding window: a network that sees `in_depth` slices at a time stains a stack of any depth.

Overlapping predictions are averaged by the true number of predictions that a slice received, so a network that returns
a constant gives exactly this constant, whatever the step.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from vsjax.errors import UserError

# (windows [B, in_depth, Y, X, C], their origins [B, 3]: z, y, x of the stack) -> [B, out_depth, Y, X, C']
Apply = Callable[[np.ndarray | jax.Array, np.ndarray], jax.Array]
# (windows [B, in_depth, Y, X, C], first output slice of each) -> windows of the same shape
Prepare = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of a stack of `depth` slices lie; make it with `plan_windows`.

    The prediction of a window belongs to its `out_depth` central slices. Where `out_depth < in_depth` the stack is
    extended by copies of its first and last slice, so that the output has a prediction for every slice of the input.
    """

    depth: int
    in_depth: int
    out_depth: int
    step: int

    @property
    def padding(self) -> tuple[int, int]:
        """Slices that are replicated before the first and after the last one."""
        before = (self.in_depth - self.out_depth) // 2
        return before, self.in_depth - self.out_depth - before

    def extend(self, volumes: np.ndarray) -> np.ndarray:
        """[tiles, Z, Y, X, C] with `padding`; the same where there is none."""
        sides = ((0, 0), self.padding, (0, 0), (0, 0), (0, 0))
        return np.pad(volumes, sides, mode="edge") if any(self.padding) else volumes

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First output slice of each window, which is also its first input slice in the padded stack; ascending."""
        last = self.depth - self.out_depth
        starts = list(range(0, last + 1, self.step))
        if starts[-1] != last:
            starts.append(last)  # the remainder: the last window ends at the last slice
        return tuple(starts)

    @cached_property
    def counts(self) -> np.ndarray:
        """How many windows predict each slice: [depth] float32, at least 1 everywhere."""
        counts = np.zeros(self.depth, np.float32)
        for start in self.starts:
            counts[start : start + self.out_depth] += 1
        return counts


def plan_windows(depth: int, in_depth: int, out_depth: int, step: int = 1) -> WindowPlan:
    """Lay windows of `in_depth` slices, `step` slices apart, over a stack of `depth` slices.

    A step beyond `out_depth` would leave slices without a prediction, so it is limited to `out_depth`.

    Raises:
        UserError: the stack is shallower than the network's input, or the step is below 1.
    """
    if not 1 <= out_depth <= in_depth:
        raise ValueError(f"out depth {out_depth} must lie between 1 and the in depth {in_depth}")
    if step < 1:
        raise UserError(f"z_step is {step}; it must be at least 1")
    if depth < in_depth:
        raise UserError(
            f"the stack has {depth} slices (Z) but the network needs at least {in_depth} (in_stack_depth); "
            f"give a deeper stack or a network trained with in_stack_depth <= {depth}"
        )
    return WindowPlan(depth, in_depth, out_depth, min(step, out_depth))


def windows_per_call(plan: WindowPlan, tiles: int, batch_size: int) -> tuple[int, int]:
    """How many tiles and how many z windows of each go into one call of the network, at most `batch_size` windows: z
    windows of one tile first, several tiles where a tile has few, as few calls as possible of equal size."""
    windows = math.ceil(len(plan.starts) / math.ceil(len(plan.starts) / batch_size))
    calls = math.ceil(tiles / max(1, batch_size // windows))
    return math.ceil(tiles / calls), windows


def predict_windows(
    apply: Apply,
    volumes: np.ndarray,
    corners: Sequence[tuple[int, int]],
    plan: WindowPlan,
    windows: int = 1,
    prepare: Prepare | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Slide `apply` along z over tiles of one size, all at the same time, and average its overlapping predictions.

    Only slices that are final leave the device, while the next batch is already computed; so neither the device's
    memory nor the traffic to the host grows with the overlap. Batches always have `windows` windows of each tile (the
    last one is filled up by repeating a window that then counts nothing), so `apply` is compiled for one shape only.

    Args:
        apply: the network, and where in the stack its windows lie.
        volumes: [tiles, Z, Y, X, C], Z = `plan.depth`.
        corners: (y, x) of each tile's first pixel in the stack.
        plan: from `plan_windows`.
        windows: of each tile per call of `apply`.
        prepare: changes the windows before they go to the device (normalisation per window).
        on_batch: called with the number of windows that were just handed over.

    Returns:
        [tiles, Z, Y, X, C'] float32.
    """
    tiles = len(volumes)
    padded = plan.extend(volumes)
    batches = [plan.starts[i : i + windows] for i in range(0, len(plan.starts), windows)]
    slab_depth = plan.out_depth + (windows - 1) * plan.step  # what the windows of one batch can reach
    output, slab = None, None
    pending: deque[tuple[int, jax.Array]] = deque()

    def collect() -> None:
        first, sums = pending.popleft()
        done = slice(first, first + sums.shape[1])  # divided here, not on a GPU: its n / n may not be 1
        np.divide(sums, plan.counts[done, None, None, None], out=output[:, done])

    for index, starts in enumerate(batches):
        repeated = starts + starts[-1:] * (windows - len(starts))
        stacked, origins = _cut(padded, corners, plan, repeated)
        predictions = apply(stacked if prepare is None else prepare(stacked, repeated * tiles), origins)
        predictions = predictions.reshape(tiles, windows, *predictions.shape[1:])
        if output is None:
            shape = predictions.shape[3:]
            output = np.empty((tiles, plan.depth, *shape), np.float32)
            slab = jnp.zeros((tiles, slab_depth, *shape), jnp.float32)
        slab = _add_windows(slab, predictions, np.array(repeated) - starts[0], np.arange(windows) < len(starts))
        end = batches[index + 1][0] if index + 1 < len(batches) else plan.depth
        sums, slab = _take_final(slab, end - starts[0])
        sums.copy_to_host_async()
        pending.append((starts[0], sums))
        if len(pending) > 1:
            collect()
        if on_batch is not None:
            on_batch(tiles * len(starts))
    while pending:
        collect()
    return output


def _cut(
    padded: np.ndarray, corners: Sequence[tuple[int, int]], plan: WindowPlan, starts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The windows of all tiles that begin at `starts`, and where each lies in the stack (z, y, x)."""
    windows = np.stack([tile[start : start + plan.in_depth] for tile in padded for start in starts])
    return windows, np.array([(start - plan.padding[0], *corner) for corner in corners for start in starts])


@partial(jax.jit, donate_argnums=0)
def _add_windows(slab: jax.Array, predictions: jax.Array, offsets: jax.Array, real: jax.Array) -> jax.Array:
    """Add each real window of [tiles, windows, D, Y, X, C] to the slab at its offset, one after the other: the order of
    a scatter-add is not defined on GPUs, and the sums would then differ from run to run."""
    depth = predictions.shape[2]
    for i in range(predictions.shape[1]):
        there = jax.lax.dynamic_slice_in_dim(slab, offsets[i], depth, axis=1)
        there = jnp.where(real[i], there + predictions[:, i].astype(jnp.float32), there)
        slab = jax.lax.dynamic_update_slice_in_dim(slab, there, offsets[i], axis=1)
    return slab


@partial(jax.jit, static_argnums=1)
def _take_final(slab: jax.Array, done: int) -> tuple[jax.Array, jax.Array]:
    """Split the slab into its first `done` slices, which no later window reaches, and the rest, moved to the front."""
    return slab[:, :done], jnp.concatenate([slab[:, done:], jnp.zeros_like(slab[:, :done])], axis=1)
