"""What the training loop asks of a task."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from vsjax.models.network import Network
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.state import TrainState

Batch = Mapping[str, jax.Array]


class Task(Protocol):
    """A small immutable object with pure functions, made from the config.

    Attributes:
        model: the network that predicts.
        inputs: how a batch becomes its input.
        metrics: names of what `evaluate` returns.
    """

    model: Network
    inputs: Inputs
    metrics: tuple[str, ...]

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step."""

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update, and scalar metrics of it; among them `loss`."""

    def evaluate(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Metrics `[B]` of each sample, or `[B, C]` of each sample and predicted channel."""

    def sample(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Three images to look at, `[B, Z, Y, X, C]`: source, what is asked for, what comes out."""

    def predict(self, variables: Any, source: jax.Array) -> jax.Array:
        """Normalised source `[B, Z, Y, X, C]` to normalised prediction `[B, Z', Y, X, C']`."""
