"""The family of conditional diffusion models: a prediction is drawn, from noise to stain in the steps of a sampler."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from vsjax.diffusion.clustering import ClusteringSettings, cut_tiles, segment
from vsjax.diffusion.guidance import Find, class_guided, find_structures, mask_guided, masked
from vsjax.diffusion.patch_features import STRIDE, intensity_features
from vsjax.diffusion.process import Parameterization, clamp, clean_of
from vsjax.diffusion.samplers import Denoise, Fraction, SamplerSettings, renoised, sample
from vsjax.diffusion.schedule import ScheduleSettings, gammas
from vsjax.diffusion.thresholds import ThresholdSettings, threshold_mask
from vsjax.errors import UserError, shorten
from vsjax.models.features import image_features, image_scaling
from vsjax.models.network import Network
from vsjax.schema import Document
from vsjax.tasks.context import Context
from vsjax.tasks.family import Family, OfOneNetwork

Limit = Annotated[float, Field(ge=-1e6, le=1e6, description="in units of the normalised stain")]
MaskSource = Literal["none", "threshold", "nsc", "given"]


class ProcessSettings(Document):
    """`config.task.process`: how stains become noise, and what the network says of it."""

    schedule: ScheduleSettings = ScheduleSettings()
    parameterization: Parameterization = Field(
        "eps", description="what the network gives: the noise, the stain (x0), or the velocity (v) between them"
    )
    clamp: bool = Field(True, description="keep estimates of the stain within `limits` while it is drawn")
    limits: tuple[tuple[Limit, Limit], ...] = Field(
        (), description="lowest and highest normalised value of each stain; empty for those of the training FOVs"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(low >= high for low, high in self.limits):
            raise ValueError("limits: the lowest value must be below the highest")
        return self


class DrawSettings(SamplerSettings):
    """How a stain is drawn (`predict --sampler steps=50 masks=nsc`)."""

    label: str = Field("", max_length=4096, description="class that is drawn; empty for that of the image's well")
    class_weight: float = Field(
        1.0, ge=0, le=100, description="classifier-free guidance: 0 is without the class, above 1 exaggerates it"
    )
    start_at: Fraction = Field(
        0.3,
        description="share of the process at which a regression's stain (--start) gets its noise",
    )
    masks: MaskSource = Field(
        "none",
        description="structures that guide, found by neural spectral clustering (nsc) or local thresholds (Palette†), "
        "or given as labels (--masks)",
    )
    mask_at: Fraction = Field(0.5, description="share of the process at which the masks get their noise")
    rounds: int = Field(1, ge=1, le=100, description="of masks made from stains, and stains made from masks")
    clustering: ClusteringSettings = ClusteringSettings()
    threshold: ThresholdSettings = ThresholdSettings()


@dataclass(frozen=True)
class Start:
    """A regression whose stains a draw starts from, as SDEdit from a sketch (arXiv:2108.01073).

    Attributes:
        family: how it predicts.
        channels: its stains that are drawn, in their order.
        units: factor and summand that make each of them the drawn stain's own normalised units.
    """

    family: Family
    channels: tuple[int, ...]
    units: tuple[tuple[float, float], ...]

    def predict(self, variables: Any, window: jax.Array, context: Context, depth: int) -> jax.Array:
        """The middle `depth` slices `[B, depth, Y, X, C]` of its stains."""
        stains = self.family.predict(variables, window, context)[..., self.channels]
        first = (stains.shape[1] - depth) // 2
        factors, summands = jnp.asarray(self.units, jnp.float32).T
        return stains[:, first : first + depth] * factors + summands


@dataclass(frozen=True)
class Denoising(OfOneNetwork):
    """A network that removes noise, in a loop.

    Attributes:
        network: called with the source, the noisy stain, its noise level and a class.
        process: how stains become noise.
        sampler: how they are drawn.
        classes: names of the classes that it knows.
        start: a regression to start from; its weights are `variables["start"]`.
        encoder: a network whose features tell structures apart; its weights are `variables["features"]`. None takes
            plain features of patches.
    """

    network: Network
    process: ProcessSettings
    sampler: DrawSettings
    classes: tuple[str, ...] = ()
    start: Start | None = None
    encoder: Network | None = None
    draws = True
    framed = False

    def __post_init__(self) -> None:
        """UserError where the class to be drawn is none of those that it knows."""
        if self.sampler.label and self.sampler.label not in self.classes:
            known = ", ".join(self.classes) or "none"
            raise UserError(f"--sampler label={shorten(self.sampler.label)}: is no class; the model knows {known}")

    @property
    def in_channels(self) -> int:
        """Of the source, and behind them one mask of each stain where masks are given."""
        return self.network.in_channels + (self.network.out_channels if self.sampler.masks == "given" else 0)

    @property
    def receptive_radius(self) -> int | None:
        """The network's; step by step it sees further."""
        return None

    def with_sampler(self, sampler: DrawSettings) -> "Denoising":
        """The same, drawn in another way."""
        return replace(self, sampler=sampler)

    def init(self, key: jax.Array, window: jax.Array) -> Any:
        """The network's variables."""
        variables = dict(_random(self.network, key, window.shape[2:4]))
        if self.start is not None:
            variables["start"] = self.start.family.init(key, window)
        if self.encoder is not None:
            variables["features"] = _random(self.encoder, key, self.encoder.divisor[1:])
        return variables

    def predict(self, variables: Any, window: jax.Array, context: Context) -> jax.Array:
        """Draw the stains of normalised windows, from noise that belongs to their voxels."""
        network, schedule, sampler = self.network, gammas(self.process.schedule), self.sampler
        window, masks = window[..., : network.in_channels], window[..., network.in_channels :]
        depth = network.out_depth
        first_slice = (window.shape[1] - depth) // 2
        shape = (len(window), depth, *window.shape[2:4], network.out_channels)

        def noise(step: jax.Array | int) -> jax.Array:
            return context.fold(step).normal(shape, first_slice)

        noisy, start = noise(0), None
        if self.start is not None:
            stains = self.start.predict(variables["start"], window, context, depth)
            noisy, start = renoised(stains, noisy, schedule, sampler.start_at), sampler.start_at
        denoise = self._denoiser(variables, window, context)
        loop = (denoise, noisy, schedule, sampler, lambda step: noise(step + 1), start)
        if sampler.masks == "none":
            return sample(*loop)
        given = masks[:, first_slice : first_slice + depth] > 0
        find = self._finder(variables, context.key)

        def segment(stains: jax.Array) -> jax.Array:
            return masked(stains, given if sampler.masks == "given" else find_structures(stains, find))

        return mask_guided(*loop, segment=segment, rounds=sampler.rounds, fraction=sampler.mask_at)

    def _finder(self, variables: Any, key: jax.Array) -> Find:
        """What finds the structures in images `[N, Y, X]` of one stain; the tile of most contrast is all's anchor."""
        settings = self.sampler
        network = self.encoder

        def features(tiles: jax.Array) -> jax.Array:
            if network is None:
                return intensity_features(tiles)
            return image_features(network, variables["features"], tiles, scaling=(0, 1))

        def find(images: jax.Array) -> jax.Array:
            location, scale = image_scaling(network, images)
            images = (images - location[:, None, None]) / scale[:, None, None]
            if settings.masks == "threshold":
                return threshold_mask(images, settings.threshold)
            stride = STRIDE if network is None else max(network.divisor)
            size = min(settings.clustering.tile, *images.shape[1:]) // stride * stride
            tiles = cut_tiles(images, size).reshape(-1, size, size)
            anchor = tiles[tiles.std(axis=(1, 2)).argmax()]
            clustering = settings.clustering.model_copy(update={"tile": size})
            return segment(images, features, anchor, key, clustering).mask

        return find

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


def _random(network: Network, key: jax.Array, plane: tuple[int, int]) -> dict[str, Any]:
    example = (jnp.zeros(x.shape, x.dtype) for x in network.example(plane))
    return network.init(key, *example, train=False)
