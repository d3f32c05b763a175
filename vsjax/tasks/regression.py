"""Supervised virtual staining: a network is trained to give the fluorescence of the same field (UNeXt2's training)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vsjax import metrics
from vsjax.losses import mixed_loss, ms_ssim_ranges
from vsjax.tasks.descent import DescentTask
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class RegressionTask(DescentTask):
    """Mixed loss (L1, L2 and MS-SSIM) between the prediction and the target.

    Attributes:
        loss: weights and scales of `losses.mixed_loss`.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "pearson", "ssim", "mae")
    loss: Mapping[str, float]

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; metrics are scalars: `loss` and the gradient's norm."""
        augment_key, dropout_key = jax.random.split(key)
        source, target = self.inputs.training(augment_key, batch)
        # The batch's, so that its parts see the same (`descend`).
        ranges = ms_ssim_ranges(target, self.loss["scales"]) if self.loss["ms_dssim"] else None

        def mean_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
            return jnp.mean(mixed_loss(prediction, target, **self.loss, data_range=ranges))

        return self.descend(state, source, target, dropout_key, mean_loss)

    def evaluate(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`; `pearson`, `ssim` and `mae` `[B, C]`."""
        source, target = self.inputs.evaluation(batch)
        prediction = self.predict(state.for_prediction(), source)
        return {
            "loss": mixed_loss(prediction, target, **self.loss),
            "pearson": metrics.pearson(prediction, target),
            "ssim": metrics.ssim(prediction, target),
            "mae": metrics.mae(prediction, target),
        }

    def sample(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Source, target and prediction."""
        source, target = self.inputs.evaluation(batch)
        return source, target, self.predict(state.for_prediction(), source)
