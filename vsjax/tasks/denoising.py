"""The family of conditional diffusion models: a prediction is drawn, from noise to stain in the steps of a sampler."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from vsjax.diffusion.guidance import class_guided
from vsjax.diffusion.process import Parameterization, clamp, clean_of
from vsjax.diffusion.samplers import Denoise, SamplerSettings, sample
from vsjax.diffusion.schedule import ScheduleSettings, gammas
from vsjax.errors import UserError, shorten
from vsjax.models.network import Network
from vsjax.schema import Document
from vsjax.tasks.context import Context


class ProcessSettings(Document):
    """`config.task.process`: how stains become noise, and what the network says of it."""

    schedule: ScheduleSettings = ScheduleSettings()
    parameterization: Parameterization = Field(
        "eps", description="what the network gives: the noise, the stain (x0), or the velocity (v) between them"
    )
    clamp: bool = Field(True, description="keep estimates of the stain within `limits` while it is drawn")
    limits: tuple[tuple[float, float], ...] = Field(
        (), description="lowest and highest normalised value of each stain; empty for those of the training FOVs"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(low >= high for low, high in self.limits):
            raise ValueError("limits: the lowest value must be below the highest")
        return self


class DrawSettings(SamplerSettings):
    """How a stain is drawn (`predict --sampler steps=50`)."""

    label: str = Field("", max_length=4096, description="class that is drawn; empty for that of the image's well")
    class_weight: float = Field(
        1.0, ge=0, le=100, description="classifier-free guidance: 0 is without the class, above 1 exaggerates it"
    )


@dataclass(frozen=True)
class Denoising:
    """A network that removes noise, in a loop.

    Attributes:
        network: called with the source, the noisy stain, its noise level and a class.
        process: how stains become noise.
        sampler: how they are drawn.
        classes: names of the classes that it knows.
    """

    network: Network
    process: ProcessSettings
    sampler: DrawSettings
    classes: tuple[str, ...] = ()
    draws = True
    framed = False

    def __post_init__(self) -> None:
        """UserError where the class to be drawn is none of those that it knows."""
        if self.sampler.label and self.sampler.label not in self.classes:
            known = ", ".join(self.classes) or "none"
            raise UserError(f"--sampler label={shorten(self.sampler.label)}: is no class; the model knows {known}")

    @property
    def in_channels(self) -> int:
        """Of the source."""
        return self.network.in_channels

    @property
    def out_channels(self) -> int:
        """Stains."""
        return self.network.out_channels

    @property
    def in_stack_depth(self) -> int:
        """Of the source."""
        return self.network.in_stack_depth

    @property
    def divisor(self) -> tuple[int, int, int]:
        """The network's."""
        return self.network.divisor

    @property
    def receptive_radius(self) -> int | None:
        """The network's; step by step it sees further."""
        return None

    def with_sampler(self, sampler: DrawSettings) -> "Denoising":
        """The same, drawn in another way."""
        return replace(self, sampler=sampler)

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The network's variables."""
        example = self.network.example(window.shape[2:4])
        return self.network.init(key, *(jnp.zeros(x.shape, x.dtype) for x in example), train=False)

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Draw the stains of normalised windows, from noise that belongs to their voxels."""
        network = self.network
        shape = (len(window), network.out_depth, *window.shape[2:4], network.out_channels)
        first_slice = (window.shape[1] - network.out_depth) // 2

        def noise(step: jax.Array | int) -> jax.Array:
            return context.fold(step).normal(shape, first_slice)

        denoise = self._denoiser(variables, window, context)
        return sample(denoise, noise(0), gammas(self.process.schedule), self.sampler, lambda step: noise(step + 1))

    def _denoiser(self, variables: Any, window: jax.Array, context: Context) -> Denoise:
        """`(noisy, gamma) -> clean`: the estimate of the stain, guided and within its limits."""

        def estimate(noisy: jax.Array, gamma: jax.Array, label: jax.Array | None) -> jax.Array:
            levels = jnp.broadcast_to(gamma, (len(window),))
            output = self.network.apply(variables, window, noisy, levels, label, train=False)
            return clean_of(self.process.parameterization, output, noisy, gamma)

        label = self._label(context, len(window))
        guided = partial(estimate, label=label)
        if label is not None and self.sampler.class_weight != 1:
            without = jnp.full(len(window), len(self.classes), jnp.int32)
            guided = class_guided(guided, partial(estimate, label=without), self.sampler.class_weight)
        return lambda noisy, gamma: self._within(guided(noisy, gamma))

    def _label(self, context: Context, samples: int) -> jax.Array | None:
        """The class of each window `[B]`: the one to be drawn, or the image's own, or none of them."""
        if not self.classes:
            return None
        if self.sampler.label or context.label is None:
            return jnp.full(samples, (*self.classes, "").index(self.sampler.label), jnp.int32)
        return context.label

    def _within(self, clean: jax.Array) -> jax.Array:
        if not (self.process.clamp and self.process.limits):
            return clean
        return clamp(clean, *jnp.asarray(self.process.limits, jnp.float32).T)
