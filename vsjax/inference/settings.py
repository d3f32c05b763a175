"""How a stack is predicted: what the user chooses, and what is chosen for them."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
from pydantic import Field

from vsjax.errors import UserError, shorten
from vsjax.runtime.experiment import Tta
from vsjax.schema import Document, document_of, parse

Pixels = Annotated[int, Field(ge=1, le=2**20)]
Units = Literal["normalized", "target"]
Keep = Literal["mean_spread", "draws"]


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How a stack is predicted.

    Attributes:
        tta: combine four rotations: "none", "mean" or "median"; None does what the experiment's config says.
        tile: (Y, X) pixels of a tile with its margins; None takes the whole field of view, or the largest tile that
            fits the device's memory.
        margin: neighbouring tiles overlap by twice this many pixels; None chooses, see `tiling.choose_margin`.
        z_step: slices from one z window to the next.
        batch_size: windows, of z and of tiles, per call of the network; None chooses by the size of the plane.
        space: devices of this process that share a plane, in Y, and stain it as one image; None takes one where the
            plane or `tile` fits it, otherwise all.
        units: "normalized" as trained, or "target": intensities of the target as its training plates store them.
        draws: how many predictions are drawn of each stack, for families that draw.
        keep: of several draws, the mean and the standard deviation per pixel as channels ("mean_spread"), or all of
            them ("draws").
        seed: of the draws; a draw is a function of it, the position, the time point and the voxel.
        sampler: the family's own settings (`Family.sampler`); None takes their defaults.
    """

    tta: Tta | None = None
    tile: tuple[Pixels, Pixels] | None = None
    margin: Annotated[int, Field(ge=0, le=2**15)] | None = None
    z_step: Annotated[int, Field(ge=1, le=2**15)] = 1
    batch_size: Annotated[int, Field(ge=1, le=2**12)] | None = None
    units: Units = "normalized"
    space: Annotated[int, Field(ge=1, le=2**12)] | None = None
    draws: Annotated[int, Field(ge=1, le=10_000)] = 1
    keep: Keep = "mean_spread"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    sampler: Any = None

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot be."""
        parse(_document(), vars(self), "settings", "give another value, or leave it out")
        if (self.space or 1) > jax.local_device_count():
            raise UserError(f"space is {self.space}; this process has only {jax.local_device_count()} devices")

    def to_json(self) -> dict[str, Any]:
        """All fields, for a record."""
        return vars(self) | {"sampler": self.sampler and self.sampler.model_dump()}


@functools.cache
def _document() -> type[Document]:
    return document_of(PredictionSettings)


def change_sampler(sampler: Document | None, changes: Mapping[str, Any]) -> Document | None:
    """A family's settings with some of them changed.

    Raises:
        UserError: the family has no settings, or none of that name, or the value is of another type or out of range.
    """
    if not changes:
        return sampler
    if sampler is None:
        raise UserError(f"--sampler {shorten(min(changes))}: this model has no settings of its own; leave it out")
    return parse(type(sampler), {**sampler.model_dump(), **changes}, "--sampler", "give another value, or leave it out")
