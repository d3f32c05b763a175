"""What a training step reads and returns."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    Attributes:
        step: number of updates done, int32.
        variables: of what predicts: `{"params": ...}` and the modules' other collections, such as `batch_stats`.
        average: exponential moving average of the parameters; `{}` where the run keeps none.
        optimizer: the optimisers' states, a pytree of the task's choosing.
        auxiliary: what only a restart needs beside the optimisers, such as a discriminator's variables.
    """

    step: jax.Array
    variables: dict[str, Any]
    average: dict[str, Any]
    optimizer: Any
    auxiliary: Any = struct.field(default_factory=dict)

    def for_prediction(self) -> dict[str, Any]:
        """The variables with the averaged parameters where there are any."""
        return {**self.variables, "params": self.average} if self.average else self.variables
