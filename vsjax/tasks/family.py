"""What inference asks of a family of models: a pure function from a window to a prediction, and what it can see."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from vsjax.errors import UserError
from vsjax.models.network import Network
from vsjax.tasks.context import Context, apart


class Family(Protocol):
    """A way to predict. Inference slides it over stacks of any size and knows nothing else of it.

    Attributes:
        in_channels, in_stack_depth: of the windows that it sees.
        out_channels: that it predicts.
        divisor: what (Z, Y, X) of a window must be multiples of.
        receptive_radius: how far it looks from a pixel in Y and X; None if it sees the whole window.
        draws: whether two keys give two predictions.
        framed: whether it heeds `context.frame`: a smaller image in a larger window is predicted as alone, and images
            of several sizes need one compilation. False leaves nothing to do.
        classes: names of the classes that it heeds (`Context.label`); empty if it has none.
        sampler: its own settings, a `schema.Document`; None if it has none. They decide whether an interrupted
            prediction may be resumed.
    """

    in_channels: int
    out_channels: int
    in_stack_depth: int
    divisor: tuple[int, int, int]
    receptive_radius: int | None
    draws: bool
    framed: bool
    classes: tuple[str, ...]
    sampler: Any

    def with_sampler(self, sampler: Any) -> "Family":
        """The same with other settings; what it sees may depend on them."""

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """Random variables of all its networks, in the structure that `predict` takes."""

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Normalised windows `[B, Z, Y, X, C]` to normalised predictions `[B, Z', Y, X, C']`, float32, of the middle
        Z' slices. A pure function; noise comes from `context.normal`."""


class OfOneNetwork:
    """What families with one network say of its windows."""

    network: Network

    @property
    def in_channels(self) -> int:
        """The network's."""
        return self.network.in_channels

    @property
    def out_channels(self) -> int:
        """The network's."""
        return self.network.out_channels

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


@dataclass(frozen=True)
class ForwardPass(OfOneNetwork):
    """One application of one network: regression, and the generator of an adversarial pair."""

    network: Network
    draws: bool = False
    sampler: Any = None
    classes: ClassVar[tuple[str, ...]] = ()

    @property
    def framed(self) -> bool:
        """The network's; noise is drawn for whole windows."""
        return self.network.framed and not self.draws

    def with_sampler(self, sampler: Any) -> "ForwardPass":
        """The same with other settings."""
        return replace(self, sampler=sampler)

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The network's variables."""
        return self.network.init(key, window, train=False)

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Of the context only the frame counts."""
        framed = {} if context.frame is None else {"frame": context.frame}
        return self.network.apply(variables, window, train=False, **framed)


@dataclass(frozen=True)
class Chain:
    """Stage two on stage one: the second family sees the source and the first one's prediction as further channels, the
    slices that the first does not predict repeating its outermost ones. Variables: `{"first": ..., "second": ...}`."""

    first: Family
    second: Family

    def __post_init__(self) -> None:
        """UserError where the second stage does not fit on the first."""
        seen = (self.first.in_stack_depth, self.first.in_channels + self.first.out_channels)
        wanted = (self.second.in_stack_depth, self.second.in_channels)
        if seen != wanted:
            raise UserError(
                f"config.model: takes {wanted[0]} slices of {wanted[1]} channels, but the stage before (config.first) "
                f"leaves {seen[0]} of {seen[1]}, its source and its stains; take stages that fit"
            )

    @property
    def in_channels(self) -> int:
        """Of the first stage, which sees the source alone."""
        return self.first.in_channels

    @property
    def out_channels(self) -> int:
        """Of the second stage."""
        return self.second.out_channels

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
    def framed(self) -> bool:
        """Whether both stages are."""
        return self.first.framed and self.second.framed

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the stage that has some."""
        return self.first.classes or self.second.classes

    @property
    def sampler(self) -> Any:
        """The second stage's settings, where it has none the first's."""
        return self.second.sampler or self.first.sampler

    def with_sampler(self, sampler: Any) -> "Chain":
        """The same with other settings of the stage that `sampler` is of."""
        stage = "second" if self.second.sampler else "first"
        return replace(self, **{stage: getattr(self, stage).with_sampler(sampler)})

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The variables of both stages."""
        first = self.first.init(jax.random.fold_in(key, 0), window)
        joined = self._joined(window, self.first.predict(first, window, Context(key=key, origin=apart(len(window)))))
        return {"first": first, "second": self.second.init(jax.random.fold_in(key, 1), joined)}

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Both stages in one go, each with noise of its own."""
        joined = self._joined(window, self.first.predict(variables["first"], window, context.fold(0)))
        return self.second.predict(variables["second"], joined, context.fold(1))

    def _joined(self, window: jax.Array, prediction: jax.Array) -> jax.Array:
        missing = window.shape[1] - prediction.shape[1]
        sides = ((0, 0), (missing // 2, missing - missing // 2), (0, 0), (0, 0), (0, 0))
        return jnp.concatenate([window, jnp.pad(prediction, sides, mode="edge")], axis=-1)
