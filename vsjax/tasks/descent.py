"""What every task with one network and one optimiser shares: its state, and the step down the gradient of a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from vsjax.models.network import Network
from vsjax.tasks.context import Context, apart
from vsjax.tasks.family import ForwardPass
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.parts import is_in
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class DescentTask:
    """A network that learns by gradient descent.

    Attributes:
        model: the network, which predicts by one forward pass.
        inputs: how a batch becomes its input and target.
        optimizer: the update rule.
        average_decay: decay of the moving average of the parameters; 0 keeps none.
        frozen: top-level modules of the network whose parameters stay as they are (`parts.py`). Running statistics of
            batch norms go on, as in VisCy.
        accumulate: parts in which the gradient of a batch is computed, one after the other, to save memory.
    """

    model: Network
    inputs: Inputs
    optimizer: optax.GradientTransformation
    average_decay: float = 0.0
    frozen: tuple[str, ...] = ()
    accumulate: int = 1

    @property
    def family(self) -> ForwardPass:
        """One application of the network."""
        return ForwardPass(self.model)

    @property
    def networks(self) -> Mapping[str, Network]:
        """The one."""
        return {"model": self.model}

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step; nothing of the batch matters."""
        example = (jnp.zeros(x.shape, x.dtype) for x in self.model.example(self.inputs.patch[1:]))
        variables = self.model.init(key, *example, train=False)
        params = variables["params"]
        average = {"params": params} if self.average_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), dict(variables), average, self.optimizer.init(params))

    def descend(
        self,
        state: TrainState,
        source: jax.Array,
        target: Any,
        dropout_key: jax.Array,
        loss: Callable[[jax.Array, Any], jax.Array],
        **call: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update towards a smaller `loss(prediction, target)`, the mean over the samples of a batch.

        `call` goes to the network with the source. The first axis of every array is that of the samples. With
        `accumulate` above 1 the batch is computed in parts, one after the other, and their gradients are averaged: only
        batch norms and dropout can tell the difference.

        Returns the new state, and `loss` and the gradient's norm over what is not frozen.
        """
        params = state.variables["params"]

        def gradient_of(others: Any, part: tuple[Any, ...]) -> tuple[Any, tuple[jax.Array, Any]]:
            source, target, call, key = part

            def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
                prediction, updated = self.model.apply(
                    {"params": self._for_gradient(params), **others},
                    source,
                    train=True,
                    rngs={"dropout": key},
                    mutable=list(others),
                    **call,
                )
                return loss(prediction, target), updated

            (value, updated), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
            return updated, (value, gradient)

        others = {name: value for name, value in state.variables.items() if name != "params"}
        if self.accumulate == 1:
            others, (value, gradient) = gradient_of(others, (source, target, call, dropout_key))
        else:
            parts = (*self._parts((source, target, call)), jax.random.split(dropout_key, self.accumulate))
            others, (value, gradient) = _mean_of_parts(gradient_of, others, parts)
        params, optimizer = update(self.optimizer, gradient, state.optimizer, params)
        average = state.average
        if self.average_decay:
            rate = jnp.minimum(self.average_decay, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, average, {"params": params})
        state = state.replace(
            step=state.step + 1, variables={"params": params, **others}, average=average, optimizer=optimizer
        )
        return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}

    def predict(self, state: TrainState, source: jax.Array, key: jax.Array) -> jax.Array:
        """What inference would give for normalised sources `[B, Z, Y, X, C]`: `[B, Z', Y, X, C']`."""
        context = Context(key=key, origin=apart(source.shape[0]))
        return self.family.predict(state.for_prediction(), source, context)

    def _parts(self, batch: Any) -> Any:
        """`[B, ...]` to `[accumulate, B / accumulate, ...]`. Part i takes every `accumulate`-th sample, so that each
        device computes on samples that it holds already."""
        return jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, self.accumulate, *x.shape[1:]), 1, 0),
            batch,
        )

    def _for_gradient(self, params: Any) -> Any:
        """The parameters whole on every device, the frozen ones such that no gradient is computed for them. Where they
        are spread over `fsdp` (`runtime/mesh.py`), XLA would otherwise rather move activations to their parts."""
        if self.inputs.sharding is not None:
            whole = NamedSharding(self.inputs.sharding.mesh, PartitionSpec())
            params = jax.lax.with_sharding_constraint(params, whole)
        if not self.frozen:
            return params
        stays = is_in(self.frozen, params)
        return jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, stays)


def update(
    optimizer: optax.GradientTransformation, gradient: Any, state: optax.OptState, params: Any
) -> tuple[Any, optax.OptState]:
    """One step of an optimiser: the new parameters and its new state."""
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def _mean_of_parts(
    gradient_of: Callable[[Any, Any], tuple[Any, tuple[jax.Array, Any]]], others: Any, parts: Any
) -> tuple[Any, tuple[jax.Array, Any]]:
    """`gradient_of` for one part after the other, with the mean of their losses and gradients. The sum is kept in one
    place, so memory does not grow with the number of parts."""

    def add(carry: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], None]:
        others, total = carry
        others, found = gradient_of(others, part)
        return (others, jax.tree.map(jnp.add, total, found)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient_of, others, first)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    count = jax.tree.leaves(parts)[0].shape[0]
    (others, total), _ = jax.lax.scan(add, (others, zeros), parts)
    return others, jax.tree.map(lambda x: x / count, total)
