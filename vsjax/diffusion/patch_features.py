"""Plain features of patches, which need no trained weights: how bright, edged, rough and curved an image is at two
scales, against what is around."""

import jax.numpy as jnp
from jax import Array

from vsjax.diffusion.thresholds import gaussian, smooth

STRIDE = 4  # pixels in Y and X of a patch
_SCALES = (1.5, 4.0)  # pixels: standard deviations of the Gaussians through which it is seen
_AROUND = 16.0  # pixels, likewise: of what counts as a patch's surroundings
_FLOOR = 0.05  # of the surroundings' variance, where they are flat
_CONSTANT = 1.0  # a feature that is the same everywhere: flat patches resemble each other, whatever their noise


def intensity_features(images: Array, stride: int = STRIDE) -> Array:
    """Features of images of mean 0 and deviation 1: `[N, Y, X] -> [N, Y/stride, X/stride, 9]`.

    At each scale: the contrast to the surroundings, the slope, the deviation from the smoothed image, the curvature;
    all in units of the surroundings' deviation, so that an uneven background does not count.
    """
    around, coarse = smooth(images, gaussian(_AROUND)), smooth(images, gaussian(_SCALES[0]))
    unit = jnp.sqrt(smooth(jnp.square(coarse - around), gaussian(_AROUND)) + _FLOOR)
    found = []
    for scale in _SCALES:
        kernel = gaussian(scale)
        seen = smooth(images, kernel)
        down, right = jnp.gradient(seen, axis=(1, 2))
        curvature = jnp.gradient(down, axis=1) + jnp.gradient(right, axis=2)
        rough = jnp.sqrt(smooth(jnp.square(images - seen), kernel))
        found += [seen - around, scale * jnp.hypot(down, right), rough, scale**2 * curvature]
    features = jnp.stack([*(feature / unit for feature in found), jnp.full_like(images, _CONSTANT)], axis=-1)
    count, rows, columns, depth = features.shape
    return features.reshape(count, rows // stride, stride, columns // stride, stride, depth).mean(axis=(2, 4))
