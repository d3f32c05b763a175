"""Supervised virtual staining: a network is trained to give the fluorescence of the same FOV (UNeXt2's training)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from pydantic import Field, model_validator

from vsjax.errors import UserError
from vsjax.losses import BETAS, check_scales, mixed_loss, ms_ssim_ranges
from vsjax.schema import Document, read_section
from vsjax.tasks.assembly import descent_parts, predicting_network, sizes
from vsjax.tasks.descent import DescentTask
from vsjax.tasks.family import ForwardPass
from vsjax.tasks.image_metrics import image_metrics, judge_images
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch, MetricSpec, TaskSettings

Weight = Annotated[float, Field(ge=0, le=1e6, description="of this term in the loss; 0 leaves it out")]


class LossSettings(Document):
    """Weights of the terms of `losses.mixed_loss`, and the scales of its MS-SSIM."""

    l1: Weight = 0.5
    l2: Weight = 0.0
    ms_dssim: Weight = 0.5
    scales: int = Field(len(BETAS), ge=1, le=len(BETAS), description="of MS-SSIM; each halves the patch")

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if not self.l1 + self.l2 + self.ms_dssim:
            raise ValueError("l1, l2 and ms_dssim are all 0; one must be positive")
        return self


class RegressionSettings(TaskSettings):
    """`config.task` of a regression."""

    loss: LossSettings = LossSettings()


@dataclass(frozen=True, kw_only=True)
class RegressionTask(DescentTask):
    """Mixed loss (L1, L2 and MS-SSIM) between the prediction and the target.

    Attributes:
        loss: weights and scales.
        channels: names of the target's channels.
    """

    Settings = RegressionSettings
    loss: LossSettings
    channels: tuple[str, ...]

    @staticmethod
    def decided(config: ConfigDict) -> dict[str, Any]:
        """It predicts the target's channels."""
        if "target" not in config.roles or not config.roles.target.get("channels"):
            raise UserError(
                'config.roles.target.channels is empty; name the stains, or set config.task.name="masked_pretraining"'
            )
        return sizes(config, out_channels=len(config.roles.target.channels))

    @classmethod
    def make(cls, config: ConfigDict, images: NamedSharding | None) -> "RegressionTask":
        """From a whole config; UserError where its fields do not fit together."""
        loss = read_section(RegressionSettings, config.task, "config.task").loss
        predicting_network(config, "regression")
        if loss.ms_dssim:
            for size in filter(None, (config.data.patch, config.data.val_patch)):
                check_scales(tuple(size)[1:], loss.scales)
        return cls(**descent_parts(config, images), loss=loss, channels=tuple(config.roles.target.channels))

    @staticmethod
    def family_of(config: Mapping[str, Any]) -> ForwardPass:
        """One application of the network."""
        return ForwardPass(predicting_network(config, "regression"))

    @property
    def metrics(self) -> Mapping[str, MetricSpec]:
        """The loss of each sample, and what the report of an evaluation begins with."""
        return {"loss": MetricSpec(), **image_metrics(self.channels)}

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; metrics are scalars: `loss` and the gradient's norm."""
        augment_key, dropout_key = jax.random.split(key)
        images = self.inputs.training(augment_key, batch)
        source, target = images["source"], images["target"]
        # The batch's, so that its parts see the same (`descend`).
        ranges = ms_ssim_ranges(target, self.loss.scales) if self.loss.ms_dssim else None

        def mean_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
            return jnp.mean(mixed_loss(prediction, target, **self.loss.model_dump(), data_range=ranges))

        return self.descend(state, source, target, dropout_key, mean_loss)

    def evaluate(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`; `pearson`, `ssim` and `mae` `[B, C]`."""
        images = self.inputs.evaluation(batch)
        target, prediction = images["target"], self.predict(state, images["source"], key)
        return {
            "loss": mixed_loss(prediction, target, **self.loss.model_dump()),
            **judge_images(prediction, target),
        }

    def sample(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Source, target and prediction."""
        images = self.inputs.evaluation(batch)
        prediction = self.predict(state, images["source"], key)
        return {"source": images["source"], "target": images["target"], "prediction": prediction}
