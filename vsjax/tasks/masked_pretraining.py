"""Masked pre-training on label-free images alone: the encoder sees half of an image, the network restores the rest.

FCMAE recipe of Liu et al. 2025 ("Pre-training") after ConvNeXt V2 (arXiv:2301.00808).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from pydantic import Field

from vsjax.errors import UserError
from vsjax.losses import masked_mse
from vsjax.models.fcmae import cells_left, enlarge_mask, random_mask
from vsjax.schema import read_section
from vsjax.tasks.assembly import descent_parts, sizes
from vsjax.tasks.descent import DescentTask
from vsjax.tasks.family import Family
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch, MetricSpec, TaskSettings


class MaskedPretrainingSettings(TaskSettings):
    """`config.task` of a masked pre-training."""

    mask_ratio: float = Field(0.5, gt=0, lt=1, description='share of the cells that are hidden (paper, "Pre-training")')


@dataclass(frozen=True, kw_only=True)
class MaskedPretrainingTask(DescentTask):
    """Mean squared error over the hidden cells; a batch needs no target.

    Attributes:
        mask_ratio: share of the cells that are hidden.
    """

    Settings = MaskedPretrainingSettings
    mask_ratio: float = 0.5

    @staticmethod
    def decided(config: ConfigDict) -> dict[str, Any]:
        """It restores the source's channels."""
        return sizes(config, out_channels=len(config.roles.source.channels))

    @classmethod
    def make(cls, config: ConfigDict, images: NamedSharding | None) -> "MaskedPretrainingTask":
        """From a whole config; UserError where its fields do not fit together."""
        ratio = read_section(MaskedPretrainingSettings, config.task, "config.task").mask_ratio
        if "target" in config.roles:
            raise UserError("config.roles.target: masked pre-training has no target; take it out of config.roles")
        parts = descent_parts(config, images)
        if parts["model"].mask_stride is None:
            raise UserError(
                f'config.model.name={config.model.name!r} cannot be masked; config.task.name="masked_pretraining" '
                'needs "fcmae"'
            )
        return cls(**parts, mask_ratio=ratio)

    @staticmethod
    def family_of(config: Mapping[str, Any]) -> Family:
        """It has none."""
        raise UserError(
            "a masked pre-training predicts no stain; train one from it, with --config.init.checkpoint and "
            "--config.init.load=encoder"
        )

    @property
    def metrics(self) -> Mapping[str, MetricSpec]:
        """The loss alone."""
        return {"loss": MetricSpec()}

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; which cells are hidden follows from `key`. Metrics: `loss` and the gradient's norm."""
        augment_key, dropout_key, mask_key = jax.random.split(key, 3)
        source = self.inputs.training(augment_key, batch)["source"]
        mask, hidden = self._mask(mask_key, source)
        return self.descend(state, source, (source, hidden), dropout_key, _mean_loss, **self._masking(mask))

    def evaluate(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`."""
        source, hidden, restored = self._restore(state, batch, key)
        return {"loss": masked_mse(restored, source, hidden)}

    def sample(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Source, source with the hidden cells black, and the restored source."""
        source, hidden, restored = self._restore(state, batch, key)
        black = jnp.min(source, axis=(1, 2, 3), keepdims=True)
        masked = jnp.where(hidden[:, None, :, :, None], black, source)
        return {"source": source, "masked": masked, "restored": restored}

    def _restore(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        source = self.inputs.evaluation(batch)["source"]
        mask, hidden = self._mask(key, source)
        return source, hidden, self.model.apply(state.for_prediction(), source, train=False, **self._masking(mask))

    def _mask(self, key: jax.Array, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which cells `[B, y, x]` and which pixels `[B, Y, X]` are hidden."""
        stride = self.model.mask_stride
        grid = (source.shape[2] // stride, source.shape[3] // stride)
        mask = random_mask(key, source.shape[0], grid, self.mask_ratio)
        return mask, enlarge_mask(mask, stride)

    def _masking(self, mask: jax.Array) -> dict[str, jax.Array]:
        """How the network is told: by the visible cells, but where planes are spread over devices (`space`), among
        which cells would have to move."""
        if self.inputs.sharding is not None and self.inputs.sharding.mesh.shape["space"] > 1:
            return {"mask": mask}
        return {"visible_cells": cells_left(mask, self.mask_ratio)}


def _mean_loss(restored: jax.Array, target: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.mean(masked_mse(restored, *target))
