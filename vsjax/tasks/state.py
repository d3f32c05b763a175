"""What a training step reads and returns."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    Attributes:
        step: number of updates done, int32.
        variables: of what predicts: `{"params": ...}` and the modules' other collections, such as `batch_stats`.
        average: exponential moving average of some of them, under the same paths, such as `{"params": ...}`; `{}` where
            the run keeps none.
        optimizer: the optimisers' states, a pytree of the task's choosing.
        auxiliary: what only a restart needs beside the optimisers, such as a discriminator's variables.
    """

    step: jax.Array
    variables: dict[str, Any]
    average: dict[str, Any]
    optimizer: Any
    auxiliary: Any = struct.field(default_factory=dict)

    def for_prediction(self) -> dict[str, Any]:
        """The variables with the averaged ones in their places."""
        return with_average(self.variables, self.average)


def with_average(variables: Any, average: Any) -> Any:
    """The tree `variables` with what `average` holds under the same paths in its place."""
    if not isinstance(average, Mapping):
        return average
    return {**variables, **{name: with_average(variables[name], value) for name, value in average.items()}}
