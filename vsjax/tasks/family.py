"""What inference asks of a family of models: a pure function from a window to a prediction, and what it can see."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vsjax.models.network import Network
from vsjax.tasks.context import Context


class Family(Protocol):
    """A way to predict. Inference slides it over stacks of any size and knows nothing else of it.

    Attributes:
        in_channels, in_stack_depth: of the windows that it sees.
        divisor: what (Z, Y, X) of a window must be multiples of.
        receptive_radius: how far it looks from a pixel in Y and X; None if it sees the whole window.
        draws: whether two keys give two predictions.
        sampler: its own settings with their defaults, a frozen dataclass; None if it has none. They decide whether an
            interrupted prediction may be resumed.
    """

    in_channels: int
    in_stack_depth: int
    divisor: tuple[int, int, int]
    receptive_radius: int | None
    draws: bool
    sampler: Any

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """Random variables of all its networks, in the structure that `predict` takes."""

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Normalised windows `[B, Z, Y, X, C]` to normalised predictions `[B, Z', Y, X, C']`, float32, of the middle
        Z' slices. A pure function; noise comes from `context.normal`."""


@dataclass(frozen=True)
class ForwardPass:
    """One application of one network: regression, and the generator of an adversarial pair."""

    network: Network
    draws: bool = False
    sampler: None = None

    @property
    def in_channels(self) -> int:
        """The network's."""
        return self.network.in_channels

    @property
    def in_stack_depth(self) -> int:
        """The network's."""
        return self.network.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """The network's."""
        return self.network.divisor

    @property
    def receptive_radius(self) -> int | None:
        """The network's."""
        return self.network.receptive_radius

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The network's variables."""
        return self.network.init(key, window, train=False)

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """The context is ignored."""
        return self.network.apply(variables, window, train=False)


@dataclass(frozen=True)
class Chain:
    """Stage two on stage one: the second family sees the source and the first one's prediction as further channels, the
    slices that the first does not predict repeating its outermost ones. Variables: `{"first": ..., "second": ...}`."""

    first: Family
    second: Family

    @property
    def in_channels(self) -> int:
        """Of the first stage, which sees the source alone."""
        return self.first.in_channels

    @property
    def in_stack_depth(self) -> int:
        """Of both stages."""
        return self.first.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """What suits both stages."""
        return tuple(math.lcm(a, b) for a, b in zip(self.first.divisor, self.second.divisor, strict=True))

    @property
    def receptive_radius(self) -> int | None:
        """The second stage looks at what the first has seen from there."""
        radii = (self.first.receptive_radius, self.second.receptive_radius)
        return None if None in radii else sum(radii)

    @property
    def draws(self) -> bool:
        """Whether one of the stages does."""
        return self.first.draws or self.second.draws

    @property
    def sampler(self) -> Any:
        """The settings of the stage that has some, the second's where both have."""
        return self.second.sampler or self.first.sampler

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The variables of both stages."""
        first = self.first.init(jax.random.fold_in(key, 0), window)
        context = Context(key=key, origin=jnp.zeros((window.shape[0], 3), jnp.int32), sampler=self.first.sampler)
        joined = self._joined(window, self.first.predict(first, window, context))
        return {"first": first, "second": self.second.init(jax.random.fold_in(key, 1), joined)}

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Both stages in one go, each with noise of its own."""
        stages = (self.first, self.second)
        contexts = [
            context.fold(number).replace(sampler=context.sampler if stage.sampler == self.sampler else stage.sampler)
            for number, stage in enumerate(stages)
        ]
        joined = self._joined(window, self.first.predict(variables["first"], window, contexts[0]))
        return self.second.predict(variables["second"], joined, contexts[1])

    def _joined(self, window: jax.Array, prediction: jax.Array) -> jax.Array:
        missing = window.shape[1] - prediction.shape[1]
        sides = ((0, 0), (missing // 2, missing - missing // 2), (0, 0), (0, 0), (0, 0))
        return jnp.concatenate([window, jnp.pad(prediction, sides, mode="edge")], axis=-1)
