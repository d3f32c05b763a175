"""The settings of augmentation: which random changes, how often, how strong."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from vsjax.errors import UserError


@dataclass(frozen=True)
class AugmentConfig:
    """Each transform has a probability, drawn independently for every sample, and a range. By default nothing is done.

    The ranges are those of the published recipes (VSCyto3D and its relatives). Lengths are in pixels of the patch,
    angles in radians, intensities in units of normalised data (of the spread that normalisation made one).

    Spatial, source and target alike:
        rotation: "any" angle about z within ±`rotation_range`, or "right_angles", one of the four multiples of 90°
            with equal chance, which needs neither interpolation nor a larger crop.
        scale: the sampling step is multiplied by a factor within 1 ± `scale_range_xy`, drawn for Y and X separately
            unless `isotropic_xy`, and within 1 ± `scale_range_z` in Z. A factor above 1 makes objects smaller.
        shear: y += a x, x += b y, with a and b within ±`shear_range`.
        flip_z, flip_y, flip_x: mirror that axis.
        elastic: a smooth displacement in the plane of at most `elastic_amplitude` pixels, with control points every
            `elastic_spacing` pixels (cubic B-spline).

    Intensity, source only, applied in this order:
        gamma: exponent within `gamma_range`; minimum, mean and standard deviation as described in
            `intensity_augmentation.adjust_gamma`.
        intensity_scale: times a factor within 1 ± `intensity_scale_range`; normalised data have their centre at zero,
            so this is a change of contrast about it.
        intensity_offset: plus a number within ±`intensity_offset_range`.
        illumination: times 1 + a smooth field within ±`illumination_range`, plus another within
            ±`illumination_offset_range`; control points every `illumination_spacing` pixels.
        blur: Gaussian in the plane, sigma within `blur_sigma_range`, drawn for Y and X separately.
        noise: white Gaussian, standard deviation within `noise_std_range`.
    """

    rotation: str = "any"
    rotation_probability: float = 0.0
    rotation_range: float = math.pi
    scale_probability: float = 0.0
    scale_range_xy: float = 0.3
    scale_range_z: float = 0.2
    isotropic_xy: bool = False
    shear_probability: float = 0.0
    shear_range: float = 0.05
    flip_z_probability: float = 0.0
    flip_y_probability: float = 0.0
    flip_x_probability: float = 0.0
    elastic_probability: float = 0.0
    elastic_amplitude: float = 6.0
    elastic_spacing: float = 32.0

    gamma_probability: float = 0.0
    gamma_range: tuple[float, float] = (0.8, 1.2)
    intensity_scale_probability: float = 0.0
    intensity_scale_range: float = 0.5
    intensity_offset_probability: float = 0.0
    intensity_offset_range: float = 0.5
    illumination_probability: float = 0.0
    illumination_range: float = 0.3
    illumination_offset_range: float = 0.3
    illumination_spacing: float = 64.0
    blur_probability: float = 0.0
    blur_sigma_range: tuple[float, float] = (0.25, 0.75)
    noise_probability: float = 0.0
    noise_std_range: tuple[float, float] = (0.0, 0.3)

    def __post_init__(self) -> None:
        """Check every field (`UserError`); lists become tuples, so that the object can be hashed, integers floats."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
            _check(field.name, value)
            object.__setattr__(self, field.name, float(value) if _is_number(value) else value)
        if self.scale_probability and max(self.scale_range_xy, self.scale_range_z) >= 1:
            raise UserError(
                "augment.scale_range_xy, augment.scale_range_z: must be below 1, or the image would collapse"
            )
        if self.shear_probability and self.shear_range >= 1:
            raise UserError("augment.shear_range: must be below 1, or the image would collapse")
        if self.elastic_probability and self.elastic_amplitude >= self.elastic_spacing / 2:
            raise UserError("augment.elastic_amplitude: must be below half of elastic_spacing, or the image would fold")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Self:
        """From a `ConfigDict` or dictionary of fields; `UserError` for one that does not exist."""
        config = dict(config or {})
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise UserError(f"augment.{unknown[0]}: there is no such field; the fields are {', '.join(known)}")
        return cls(**config)

    @property
    def interpolates(self) -> bool:
        """Whether a spatial transform in the plane needs values between pixels."""
        turns = self.rotation == "any" and self.rotation_probability > 0 and self.rotation_range > 0
        scales = self.scale_probability > 0 and self.scale_range_xy > 0
        shears = self.shear_probability > 0 and self.shear_range > 0
        bends = self.elastic_probability > 0 and self.elastic_amplitude > 0
        return turns or scales or shears or bends

    @property
    def scales_z(self) -> bool:
        """Whether slices are interpolated."""
        return self.scale_probability > 0 and self.scale_range_z > 0


def _check(name: str, value: Any) -> None:
    """Raise `UserError` if this field cannot have this value."""
    if name == "rotation":
        if value not in ("any", "right_angles"):
            raise UserError(f"augment.rotation: {value!r} is neither 'any' nor 'right_angles'")
        return
    if name == "isotropic_xy":
        if not isinstance(value, bool):
            raise UserError(f"augment.isotropic_xy: {value!r} is neither True nor False")
        return
    pair = name in ("gamma_range", "blur_sigma_range", "noise_std_range")
    numbers = value if pair and isinstance(value, tuple) else (value,)
    if len(numbers) != (2 if pair else 1) or not all(_is_number(number) for number in numbers):
        raise UserError(f"augment.{name}: {value!r} is not {'a pair (least, largest)' if pair else 'a number'}")
    if numbers[0] < 0 or list(numbers) != sorted(numbers):
        raise UserError(f"augment.{name}: {value!r} must {'rise from 0 or more' if pair else 'not be negative'}")
    if name.endswith("_probability") and value > 1:
        raise UserError(f"augment.{name}: {value!r} is not between 0 and 1")
    if name in ("gamma_range", "elastic_spacing", "illumination_spacing") and numbers[0] == 0:
        raise UserError(f"augment.{name}: {value!r} must be above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
