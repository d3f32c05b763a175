"""What the training loop asks of a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from pydantic import Field

from vsjax.models.network import Network
from vsjax.schema import Document, Name
from vsjax.tasks.family import Family
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.state import TrainState

Batch = Mapping[str, jax.Array]


class TaskSettings(Document):
    """`config.task`: the name of the task, and in classes below this one its settings."""

    name: Name = Field(description="of the task")


@dataclass(frozen=True)
class MetricSpec:
    """What a validation metric is.

    Attributes:
        maximise: whether more is better.
        columns: names along its second axis, such as the predicted channels; without any it is `[B]`.
        partial: whether a sample may leave it undefined (NaN), as a constant patch leaves its correlation; such samples
            do not count. Any other metric that is not finite ends the run.
    """

    maximise: bool = False
    columns: tuple[str, ...] = ()
    partial: bool = False


class Task(Protocol):
    """A small immutable object with pure functions, made from the config.

    Attributes:
        family: how its networks predict; inference makes the same from a checkpoint's config.
        model: the network that `state.variables` are of; another run's weights can be loaded into its parts.
        networks: by name, all that it trains, those too that prediction never needs.
        inputs: how a batch becomes their input.
        metrics: what `evaluate` returns, by name; among them `loss`.
    """

    family: Family
    model: Network
    networks: Mapping[str, Network]
    inputs: Inputs
    metrics: Mapping[str, MetricSpec]

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step."""

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update, and scalar metrics of it; among them `loss`."""

    def evaluate(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """The metrics of each sample, as `metrics` says. The key is the same at every validation."""

    def sample(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Images to look at, `[B, Z, Y, X, C]` by name, in the order in which they are shown; those that have as many
        channels as `target` (or `source`, where there is none) share its contrast."""


class TaskKind(Protocol):
    """What `registry.TASKS` holds: usually the class of the task.

    Attributes:
        Settings: what `config.task` may hold, with defaults of all but the name.
    """

    Settings: type[TaskSettings]

    def decided(self, config: ConfigDict) -> dict[str, Any]:
        """The fields of `config.model` that follow from the others, channels and depths. Those that the network does
        not have are left out, those that the user gives stay; UserError where a role is missing."""

    def make(self, config: ConfigDict, images: NamedSharding | None) -> Task:
        """The task of a config that `registry.resolve` completed; UserError where its fields do not fit together."""

    def family_of(self, config: Mapping[str, Any]) -> Family:
        """How a checkpoint with this config predicts; UserError where it does not."""
