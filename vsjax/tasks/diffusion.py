"""Conditional diffusion: a network learns to tell a stain from noise, given the label-free image (Palette, DiffStain).

Saharia et al. 2022 (arXiv:2111.05826); Han et al. 2025 (MICCAI); classes as of Cross-Zamirski et al. 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from pydantic import Field

from vsjax.diffusion.process import check_process, draw_gamma, noised, output_of
from vsjax.diffusion.schedule import gammas
from vsjax.errors import UserError
from vsjax.models.registry import network_of
from vsjax.schema import Share, read_section
from vsjax.tasks.assembly import descent_parts, sizes
from vsjax.tasks.context import Context, apart
from vsjax.tasks.denoising import Denoising, DrawSettings, ProcessSettings
from vsjax.tasks.descent import DescentTask
from vsjax.tasks.image_metrics import image_metrics, judge_images
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Batch, MetricSpec, TaskSettings

LEVELS = 4  # noise levels at which a validation takes the loss: enough to tell two checkpoints apart


class DiffusionSettings(TaskSettings):
    """`config.task` of a diffusion."""

    process: ProcessSettings = ProcessSettings()
    norm: Literal["l1", "l2"] = Field("l1", description="of the error: DiffStain's is l1, Palette's code has l2")
    label_dropout: Share = Field(
        0.1, description="samples that learn without their class, for classifier-free guidance"
    )
    sampler: DrawSettings = DrawSettings()
    validation_steps: int = Field(10, ge=1, le=10_000, description="steps in which a validation draws its stains")


@dataclass(frozen=True, kw_only=True)
class DiffusionTask(DescentTask):
    """The error of the network's estimate at a random noise level; validation draws stains too.

    Attributes:
        settings: of the task.
        channels: names of the stains.
        classes: names of the classes, in the role `label`; empty without.
    """

    Settings = DiffusionSettings
    settings: DiffusionSettings
    channels: tuple[str, ...]
    classes: tuple[str, ...] = ()

    @staticmethod
    def decided(config: ConfigDict) -> dict[str, Any]:
        """It draws the target's channels, and knows the classes of the role `label`."""
        if "target" not in config.roles or not config.roles.target.get("channels"):
            raise UserError("config.roles.target.channels is empty; name the stains")
        classes = _classes(config.to_dict())
        return {**sizes(config, out_channels=len(config.roles.target.channels)), "classes": len(classes)}

    @classmethod
    def make(cls, config: ConfigDict, images: NamedSharding | None) -> "DiffusionTask":
        """From a whole config; UserError where its fields do not fit together."""
        settings, channels = _settings(config.to_dict()), tuple(config.roles.target.channels)
        return cls(
            **descent_parts(config, images), settings=settings, channels=channels, classes=_classes(config.to_dict())
        )

    @staticmethod
    def family_of(config: Mapping[str, Any]) -> Denoising:
        """A loop over the network."""
        settings = _settings(config)
        return Denoising(network_of(config), settings.process, settings.sampler, _classes(config))

    @property
    def family(self) -> Denoising:
        """A loop over the network, of few steps: it is for looking while it learns."""
        sampler = self.settings.sampler.model_copy(update={"steps": self.settings.validation_steps})
        return Denoising(self.model, self.settings.process, sampler, self.classes)

    @property
    def metrics(self) -> Mapping[str, MetricSpec]:
        """The loss of each sample, and how a stain drawn in a few steps compares."""
        return {"loss": MetricSpec(), **image_metrics(self.channels)}

    def step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; metrics are scalars: `loss` and the gradient's norm."""
        augment_key, dropout_key, level_key, noise_key, label_key = jax.random.split(key, 5)
        images = self.inputs.training(augment_key, batch)
        clean = images["target"]
        gamma = draw_gamma(level_key, gammas(self.settings.process.schedule), len(clean))
        noise = jax.random.normal(noise_key, clean.shape)
        call = {"noisy": noised(clean, noise, gamma), "gamma": gamma}
        if self.classes:
            without = jax.random.bernoulli(label_key, self.settings.label_dropout, (len(clean),))
            call["label"] = jnp.where(without, len(self.classes), images["label"])
        wanted = output_of(self.settings.process.parameterization, clean, noise, gamma)

        def mean_loss(output: jax.Array, wanted: jax.Array) -> jax.Array:
            return jnp.mean(self._error(output, wanted))

        return self.descend(state, images["source"], wanted, dropout_key, mean_loss, **call)

    def evaluate(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Per sample: `loss` `[B]`, the mean over a few noise levels; `pearson`, `ssim` and `mae` `[B, C]` of a stain
        drawn in a few steps."""
        images = self.inputs.evaluation(batch)
        target, drawn = images["target"], self._draw(state, images, key)
        return {
            "loss": self._loss(state, images, key),
            **judge_images(drawn, target),
        }

    def sample(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Source, target and a stain drawn in a few steps."""
        images = self.inputs.evaluation(batch)
        return {
            "source": images["source"],
            "target": images["target"],
            "prediction": self._draw(state, images, key),
        }

    def _draw(self, state: TrainState, images: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        context = Context(key=key, origin=apart(len(images["source"])), label=images.get("label"))
        return self.family.predict(state.for_prediction(), images["source"], context)

    def _loss(self, state: TrainState, images: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """`[B]`, at noise levels that are spread evenly over the process, and the same at every validation."""
        process, clean = self.settings.process, images["target"]
        schedule = gammas(process.schedule)
        places = (jnp.arange(LEVELS) + 0.5) * (len(schedule) / LEVELS)

        def at(place: jax.Array) -> jax.Array:
            gamma = jnp.full(len(clean), jnp.asarray(schedule, jnp.float32)[place.astype(int)])
            noise = jax.random.normal(jax.random.fold_in(key, place.astype(int)), clean.shape)
            noisy, wanted = noised(clean, noise, gamma), output_of(process.parameterization, clean, noise, gamma)
            variables = state.for_prediction()
            output = self.model.apply(variables, images["source"], noisy, gamma, images.get("label"), train=False)
            return jnp.mean(self._error(output, wanted), axis=range(1, clean.ndim))

        return jnp.mean(jax.lax.map(at, places), axis=0)

    def _error(self, output: jax.Array, wanted: jax.Array) -> jax.Array:
        difference = output - wanted
        return jnp.abs(difference) if self.settings.norm == "l1" else jnp.square(difference)


def _settings(config: Mapping[str, Any]) -> DiffusionSettings:
    settings = read_section(DiffusionSettings, config["task"], "config.task")
    check_process(settings.process.schedule, settings.process.parameterization)
    limits, roles = settings.process.limits, config.get("roles", {})
    stains = roles.get("target", {}).get("channels", ())
    if limits and stains and len(limits) != len(stains):
        raise UserError(
            f"config.task.process.limits: has {len(limits)} pairs for {len(stains)} stains; give one each, or none"
        )
    return settings


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the role `label`."""
    role = config.get("roles", {}).get("label")
    if role is None:
        return ()
    if "classes" not in role:
        raise UserError(
            "config.roles.label: names no classes; write metadata_role(KEY, CLASS, ...), or take it out of config.roles"
        )
    return tuple(role["classes"])
