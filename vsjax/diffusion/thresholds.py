"""Masks from local adaptive thresholds: those of the paper's Palette† (DiffStain, Table 1)."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import AfterValidator, Field

from vsjax.schema import Document

_TRUNCATE = 4.0  # standard deviations to which a Gaussian is followed, as in SciPy


def _odd(window: int) -> int:
    if window % 2 == 0:
        raise ValueError("must be odd, so that it has a middle")
    return window


class ThresholdSettings(Document):
    """What a pixel is compared with."""

    window: Annotated[int, AfterValidator(_odd)] = Field(
        51, ge=3, le=4095, description="pixels in Y and X of the surroundings"
    )
    weights: Literal["gaussian", "mean"] = Field(
        "gaussian", description="of the surroundings: a Gaussian whose deviation is a sixth of the window, or all alike"
    )
    offset: float = Field(
        0.2, ge=-1e6, le=1e6, description="above the surroundings' mean, in units of the image's deviation"
    )


def local_mean(images: Array, window: int, weights: str = "gaussian") -> Array:
    """The mean of each pixel's surroundings, `[..., Y, X]`, mirrored at the borders."""
    if weights == "mean":
        return smooth(images, np.full(window, 1 / window))
    return smooth(images, gaussian((window - 1) / 6, _TRUNCATE))


def threshold_mask(images: Array, settings: ThresholdSettings) -> Array:
    """Where images `[..., Y, X]`, of deviation 1, are above their surroundings: bool."""
    return images > local_mean(images, settings.window, settings.weights) + settings.offset


def gaussian(scale: float, truncate: float = 3.0) -> np.ndarray:
    """The weights of a Gaussian of this standard deviation in pixels, whose sum is 1."""
    reach = int(truncate * scale + 0.5)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / scale))
    return weights / weights.sum()


def smooth(images: Array, kernel: np.ndarray) -> Array:
    """Images `[..., Y, X]` with a kernel of odd length along Y and then X, mirrored at the borders."""
    weights, reach = jnp.asarray(kernel, jnp.float32)[None, None], len(kernel) // 2
    for axis in (-2, -1):
        lines = jnp.moveaxis(images, axis, -1)
        padded = jnp.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(reach, reach)], mode="symmetric")
        flat = padded.reshape(-1, 1, padded.shape[-1])
        flat = jax.lax.conv_general_dilated(flat, weights, (1,), "VALID", precision="highest")
        images = jnp.moveaxis(flat.reshape(lines.shape), -1, axis)
    return images
