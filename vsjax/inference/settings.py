"""How a stack is predicted: what the user chooses, and what is chosen for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import jax

from vsjax.errors import UserError
from vsjax.inference.tta import Tta

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
    tile: tuple[int, int] | None = None
    margin: int | None = None
    z_step: int = 1
    batch_size: int | None = None
    units: Units = "normalized"
    space: int | None = None
    draws: int = 1
    keep: Keep = "mean_spread"
    seed: int = 0
    sampler: Any = None

    def check(self) -> None:
        """Raise a UserError that names the first setting that cannot be."""
        choices = {"tta": (None, *get_args(Tta)), "units": get_args(Units), "keep": get_args(Keep)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                allowed = ", ".join(filter(None, known))
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        numbers = {name: getattr(self, name) for name in ("z_step", "batch_size", "space", "draws")}
        for name, value in {**numbers, "tile": self.tile and min(self.tile)}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if (self.space or 1) > jax.local_device_count():
            raise UserError(f"space is {self.space}; this process has only {jax.local_device_count()} devices")
        for name in ("margin", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def to_json(self) -> dict[str, Any]:
        """All fields, for a record."""
        return asdict(self)


def change_sampler(sampler: Any, changes: Mapping[str, Any]) -> Any:
    """A family's settings with some of them changed.

    Raises:
        UserError: the family has no settings, or none of that name, or the value is of another type.
    """
    known = {entry.name: getattr(sampler, entry.name) for entry in fields(sampler)} if sampler is not None else {}
    for name, value in changes.items():
        if name not in known:
            raise UserError(f"--sampler {name}: this model has no such setting; it has {', '.join(known) or 'none'}")
        if type(value) is not type(known[name]) and not (isinstance(value, int) and isinstance(known[name], float)):
            raise UserError(
                f"--sampler {name}={value!r}: is no {type(known[name]).__name__}; by default it is {known[name]!r}"
            )
    return replace(sampler, **changes) if changes else sampler
