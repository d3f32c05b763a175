"""What every task with one network and one optimiser shares: its state, and the step down the gradient of a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vsjax.tasks.inputs import Inputs
from vsjax.tasks.parts import is_in
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class DescentTask:
    """A network that learns by gradient descent.

    Attributes:
        model: the network, `[B, Z, Y, X, C] -> [B, Z', Y, X, C']`.
        inputs: how a batch becomes the network's input and target.
        optimizer: the update rule.
        average_decay: decay of the moving average of the parameters; 0 keeps none.
        frozen: parts of the network whose parameters stay as they are (`parts.py`). Running statistics of batch norms
            go on, as in VisCy.
    """

    model: nn.Module
    inputs: Inputs
    optimizer: optax.GradientTransformation
    average_decay: float = 0.0
    frozen: tuple[str, ...] = ()

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step; only the batch's shapes matter."""
        source, _ = self.inputs.training(key, batch)
        variables = self.model.init(key, source[:1], train=False)
        params = variables["params"]
        average = params if self.average_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), dict(variables), average, self.optimizer.init(params))

    def descend(
        self,
        state: TrainState,
        source: jax.Array,
        dropout_key: jax.Array,
        loss: Callable[[jax.Array], jax.Array],
        **call: Any,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update towards a smaller `loss(prediction)`, a scalar; `call` goes to the network with the source.

        Returns the new state, and `loss` and the gradient's norm over what is not frozen.
        """
        others = {name: value for name, value in state.variables.items() if name != "params"}

        def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            if self.frozen:  # no gradient is computed where none is used
                stays = is_in(self.frozen, params)
                params = jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, stays)
            prediction, updated = self.model.apply(
                {"params": params, **others},
                source,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=list(others),
                **call,
            )
            return loss(prediction), updated

        params = state.variables["params"]
        (value, updated), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        average = state.average
        if self.average_decay:
            rate = jnp.minimum(self.average_decay, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, average, params)
        state = TrainState(state.step + 1, {"params": params, **updated}, average, optimizer)
        return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}

    def predict(self, variables: Any, source: jax.Array) -> jax.Array:
        """Normalised source `[B, Z, Y, X, C]` to normalised prediction `[B, Z', Y, X, C']`."""
        return self.model.apply(variables, source, train=False)
