"""The settings of augmentation: which random changes, how often, how strong."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vsjax.schema import Document, Share


def _rises(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("must rise: (least, largest)")
    return pair


_Spacing = Annotated[
    float, Field(ge=2, le=1e5)
]  # a closer grid of control points is noise, and needs the memory of one
_Gamma = Annotated[float, Field(gt=0, le=100)]
_Sigma = Annotated[float, Field(ge=0, le=100)]  # pixels
_Spread = Annotated[float, Field(ge=0, le=1000)]  # of normalised data


class AugmentConfig(Document):
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

    rotation: Literal["any", "right_angles"] = "any"
    rotation_probability: Share = 0.0
    rotation_range: Annotated[float, Field(ge=0, le=2 * math.pi, description="radians")] = math.pi
    scale_probability: Share = 0.0
    scale_range_xy: Annotated[float, Field(ge=0, lt=1, description="at 1 the image would collapse")] = 0.3
    scale_range_z: Annotated[float, Field(ge=0, lt=1, description="at 1 the image would collapse")] = 0.2
    isotropic_xy: bool = False
    shear_probability: Share = 0.0
    shear_range: Annotated[float, Field(ge=0, lt=1, description="at 1 the image would collapse")] = 0.05
    flip_z_probability: Share = 0.0
    flip_y_probability: Share = 0.0
    flip_x_probability: Share = 0.0
    elastic_probability: Share = 0.0
    elastic_amplitude: Annotated[float, Field(ge=0, le=1e4, description="pixels")] = 6.0
    elastic_spacing: Annotated[_Spacing, Field(description="pixels from one control point to the next")] = 32.0

    gamma_probability: Share = 0.0
    gamma_range: Annotated[tuple[_Gamma, _Gamma], AfterValidator(_rises)] = (0.8, 1.2)
    intensity_scale_probability: Share = 0.0
    intensity_scale_range: _Spread = 0.5
    intensity_offset_probability: Share = 0.0
    intensity_offset_range: _Spread = 0.5
    illumination_probability: Share = 0.0
    illumination_range: _Spread = 0.3
    illumination_offset_range: _Spread = 0.3
    illumination_spacing: Annotated[_Spacing, Field(description="pixels from one control point to the next")] = 64.0
    blur_probability: Share = 0.0
    blur_sigma_range: Annotated[tuple[_Sigma, _Sigma], AfterValidator(_rises)] = (0.25, 0.75)
    noise_probability: Share = 0.0
    noise_std_range: Annotated[tuple[_Spread, _Spread], AfterValidator(_rises)] = (0.0, 0.3)

    @model_validator(mode="after")
    def _does_not_fold(self) -> Self:
        if self.elastic_probability and self.elastic_amplitude >= self.elastic_spacing / 2:
            raise ValueError(
                f"elastic_amplitude={self.elastic_amplitude} must be below half of "
                f"elastic_spacing={self.elastic_spacing}, or the image would fold"
            )
        return self

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
