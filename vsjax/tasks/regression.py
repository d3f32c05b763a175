"""Supervised virtual staining: a network is trained to give the fluorescence of the same field (UNeXt2's training)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vsjax import metrics
from vsjax.losses import mixed_loss
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.state import TrainState


@dataclass(frozen=True)
class RegressionTask:
    """Mixed loss (L1, L2 and MS-SSIM) between the prediction and the target.

    Attributes:
        model: the network, `[B, Z, Y, X, C] -> [B, Z', Y, X, C']`.
        inputs: how a batch becomes the network's input and target.
        optimizer: the update rule.
        loss: weights and scales of `losses.mixed_loss`.
        average_decay: decay of the moving average of the parameters; 0 keeps none.
    """

    model: nn.Module
    inputs: Inputs
    optimizer: optax.GradientTransformation
    loss: Mapping[str, float]
    average_decay: float = 0.0

    def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> TrainState:
        """The state before the first step; only the batch's shapes matter."""
        source, _ = self.inputs.training(key, batch)
        variables = self.model.init(key, source[:1], train=False)
        params = variables["params"]
        average = params if self.average_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), dict(variables), average, self.optimizer.init(params))

    def step(
        self, state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; metrics are scalars: `loss` and the gradient's norm."""
        augment_key, dropout_key = jax.random.split(key)
        source, target = self.inputs.training(augment_key, batch)
        others = {name: value for name, value in state.variables.items() if name != "params"}

        def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            prediction, updated = self.model.apply(
                {"params": params, **others}, source, train=True, rngs={"dropout": dropout_key}, mutable=list(others)
            )
            return jnp.mean(mixed_loss(prediction, target, **self.loss)), updated

        params = state.variables["params"]
        (loss, updated), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        average = state.average
        if self.average_decay:
            rate = jnp.minimum(self.average_decay, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, average, params)
        state = TrainState(state.step + 1, {"params": params, **updated}, average, optimizer)
        return state, {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}

    def evaluate(self, state: TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`; `pearson`, `ssim` and `mae` `[B, C]`."""
        source, target = self.inputs.evaluation(batch)
        prediction = self.predict(state.for_prediction(), source)
        return {
            "loss": mixed_loss(prediction, target, **self.loss),
            "pearson": metrics.pearson(prediction, target),
            "ssim": metrics.ssim(prediction, target),
            "mae": metrics.mae(prediction, target),
        }

    def predict(self, variables: Any, source: jax.Array) -> jax.Array:
        """Normalised source `[B, Z, Y, X, C]` to normalised prediction `[B, Z', Y, X, C']`."""
        return self.model.apply(variables, source, train=False)
