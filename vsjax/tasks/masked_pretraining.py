"""Masked pre-training on label-free images alone: the encoder sees half of an image, the network restores the rest.

FCMAE recipe of Liu et al. 2025 ("Pre-training") after ConvNeXt V2 (arXiv:2301.00808).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vsjax.losses import masked_mse
from vsjax.models.fcmae import enlarge_mask, random_mask
from vsjax.tasks.descent import DescentTask
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch

_EVALUATION_SEED = 0  # validation hides the same cells at every step, so that its losses can be compared


@dataclass(frozen=True, kw_only=True)
class MaskedPretrainingTask(DescentTask):
    """Mean squared error over the hidden cells; a batch needs no target.

    Attributes:
        mask_ratio: share of the cells that are hidden.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    mask_ratio: float = 0.5

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; which cells are hidden follows from `key`. Metrics: `loss` and the gradient's norm."""
        augment_key, dropout_key, mask_key = jax.random.split(key, 3)
        source, _ = self.inputs.training(augment_key, batch)
        mask, hidden = self._mask(mask_key, source)
        return self.descend(state, source, (source, hidden), dropout_key, _mean_loss, mask=mask)

    def evaluate(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`."""
        source, hidden, restored = self._restore(state, batch)
        return {"loss": masked_mse(restored, source, hidden)}

    def sample(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Input, input with the hidden cells black, and the reconstruction."""
        source, hidden, restored = self._restore(state, batch)
        black = jnp.min(source, axis=(1, 2, 3), keepdims=True)
        return source, jnp.where(hidden[:, None, :, :, None], black, source), restored

    def _restore(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        source, _ = self.inputs.evaluation(batch)
        mask, hidden = self._mask(jax.random.key(_EVALUATION_SEED), source)
        return source, hidden, self.model.apply(state.for_prediction(), source, train=False, mask=mask)

    def _mask(self, key: jax.Array, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which cells `[B, y, x]` and which pixels `[B, Y, X]` are hidden."""
        stride = self.model.mask_stride
        grid = (source.shape[2] // stride, source.shape[3] // stride)
        mask = random_mask(key, source.shape[0], grid, self.mask_ratio)
        return mask, enlarge_mask(mask, stride)


def _mean_loss(restored: jax.Array, target: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.mean(masked_mse(restored, *target))
