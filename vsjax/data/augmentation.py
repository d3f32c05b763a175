"""Augmentation on the device: random changes of already normalised patches, a pure function of a key.

Ranges follow Liu et al. 2025 (UNeXt2) and VisCy's training recipes. Spatial transforms move source and target alike and
start from a larger crop (`oversized_patch`), so that what enters the patch is always image, never padding; intensity
transforms change the source only. What can be varied is in `AugmentConfig`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from vsjax.data import intensity_augmentation, spatial_augmentation
from vsjax.data.augment_config import AugmentConfig
from vsjax.data.spatial_augmentation import check_crop, oversized_patch
from vsjax.errors import UserError

__all__ = ["AugmentConfig", "augment", "center_crop", "check_crop", "oversized_patch"]


@functools.partial(jax.jit, static_argnames=("config", "patch", "target_depth"))
def augment(
    key: Array,
    source: Array,
    target: Array,
    config: AugmentConfig,
    patch: tuple[int, int, int],
    target_depth: int | None = None,
) -> tuple[Array, Array]:
    """Augment a batch: source `[B, Z', Y', X', C]`, target `[B, Z'', Y', X', C']`, both centred on the same point.

    Returns source `[B, Z, Y, X, C]` for `patch` (Z, Y, X) and target `[B, Zt, Y, X, C']`, where Zt is `target_depth`
    (all Z by default), the middle of the source's slices. Data are float and normalised already.

    Sample i's transforms follow from `key` and i alone, not from the size or content of the batch; every transform
    of every sample is drawn independently. Y' and X' are at least those of `oversized_patch(config, patch)`, or
    `UserError` is raised. Z' and Z'' may be smaller than it asks, down to Z and Zt, where the stack has no more:
    slices beyond it then repeat the outermost ones.
    """
    depth = patch[0] if target_depth is None else target_depth
    _check_shapes(source, target, patch, depth)
    check_crop(config, source.shape[1:4], patch)

    def one(index: Array, source: Array, target: Array) -> tuple[Array, Array]:
        sample_key = jax.random.fold_in(key, index)
        spatial_key, intensity_key = jax.random.fold_in(sample_key, 0), jax.random.fold_in(sample_key, 1)
        source, target = spatial_augmentation.transform(spatial_key, source, target, config, patch, depth)
        return intensity_augmentation.transform(intensity_key, source, config), target

    return jax.vmap(one)(jnp.arange(source.shape[0]), source, target)


def center_crop(x: Array, patch: tuple[int, int, int]) -> Array:
    """The middle `patch` (Z, Y, X) of `[B, Z', Y', X', C]`, where `augment` without transforms would take it.

    Raises `UserError` if x is smaller.
    """
    size = tuple(x.shape[1:4])
    if any(have < need for have, need in zip(size, patch, strict=True)):
        raise UserError(f"patch: {tuple(patch)} (z, y, x) is larger than the image, {size}; make it smaller")
    starts = [(have - need) // 2 for have, need in zip(size, patch, strict=True)]
    return x[:, *(slice(start, start + need) for start, need in zip(starts, patch, strict=True))]


def _check_shapes(source: Array, target: Array, patch: tuple[int, int, int], target_depth: int) -> None:
    if source.shape[0] != target.shape[0] or source.shape[2:4] != target.shape[2:4]:
        raise ValueError(f"source {source.shape} and target {target.shape} are not crops of the same places")
    if not 1 <= target_depth <= min(patch[0], target.shape[1]):
        raise ValueError(f"target_depth {target_depth} does not fit a patch of {patch} and a target of {target.shape}")
