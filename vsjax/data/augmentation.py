"""Augmentation on the device: random changes of patches and their normalisation, a pure function of a key.

Ranges follow Liu et al. 2025 (UNeXt2) and VisCy's training recipes. Spatial transforms move all images of a sample
alike and start from a larger crop (`oversized_patch`), so that what enters the patch is always image, never padding;
intensity transforms change the source only. What can be varied is in `AugmentConfig`.
"""

import functools
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from vsjax.data import intensity_augmentation, spatial_augmentation
from vsjax.data.augment_config import AugmentConfig
from vsjax.data.spatial_augmentation import check_crop, oversized_patch
from vsjax.errors import UserError
from vsjax.intensity.normalization import normalize

__all__ = ["AugmentConfig", "augment", "center_crop", "check_crop", "oversized_patch"]


def augment(
    key: Array,
    images: Mapping[str, Array],
    config: AugmentConfig,
    patch: tuple[int, int, int],
    depths: Mapping[str, int] | None = None,
    nearest: Collection[str] = (),
    normalization: Mapping[str, tuple[Array, Array]] | None = None,
) -> dict[str, Array]:
    """Augment the images of a batch, each `[B, Z', Y', X', C]` with a depth of its own, all centred on the same point.

    Returns `[B, depths[name], Y, X, C]` for each, the middle of the slices of `patch` (Z, Y, X); by default all of
    them. Spatial changes move all images alike; those in `nearest` (labels) take the value of the nearest pixel.
    Intensity changes are of the image "source" alone, and of normalised data: images that are not normalised yet have
    their location and scale `[B, C]` in `normalization`. That is done in between, when there are fewer pixels.

    Sample i's transforms follow from `key` and i alone, not from the size or content of the batch; every transform
    of every sample is drawn independently. Y' and X' are at least those of `oversized_patch(config, patch)`, or
    `UserError` is raised. Z' may be smaller than it asks, down to `depths[name]`, where the stack has no more: slices
    beyond it then repeat the outermost ones.
    """
    depths = dict.fromkeys(images, patch[0]) | dict(depths or {})
    for name, image in images.items():
        check_crop(config, image.shape[1:4], (depths[name], *patch[1:]))
    _check_shapes(images, patch, depths)
    normalization = dict(normalization or {})
    return _augment(key, dict(images), normalization, config, tuple(patch), tuple(depths.items()), frozenset(nearest))


@functools.partial(jax.jit, static_argnames=("config", "patch", "depths", "nearest"))
def _augment(
    key: Array,
    images: dict[str, Array],
    normalization: dict[str, tuple[Array, Array]],
    config: AugmentConfig,
    patch: tuple[int, int, int],
    depths: tuple[tuple[str, int], ...],
    nearest: frozenset[str],
) -> dict[str, Array]:
    count = next(iter(images.values())).shape[0]
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))

    def move(key: Array, volumes: dict[str, Array]) -> dict[str, Array]:
        return spatial_augmentation.transform(jax.random.fold_in(key, 0), volumes, config, patch, dict(depths), nearest)

    def change(key: Array, volume: Array) -> Array:
        return intensity_augmentation.transform(jax.random.fold_in(key, 1), volume, config)

    images = jax.vmap(move)(keys, images)
    images |= {name: normalize(images[name], *numbers) for name, numbers in normalization.items()}
    return images | ({"source": jax.vmap(change)(keys, images["source"])} if "source" in images else {})


def center_crop(x: Array, patch: tuple[int, int, int]) -> Array:
    """The middle `patch` (Z, Y, X) of `[B, Z', Y', X', C]`, where `augment` without transforms would take it.

    Raises `UserError` if x is smaller.
    """
    size = tuple(x.shape[1:4])
    if any(have < need for have, need in zip(size, patch, strict=True)):
        raise UserError(f"patch: {tuple(patch)} (z, y, x) is larger than the image, {size}; make it smaller")
    starts = [(have - need) // 2 for have, need in zip(size, patch, strict=True)]
    return x[:, *(slice(start, start + need) for start, need in zip(starts, patch, strict=True))]


def _check_shapes(images: Mapping[str, Array], patch: tuple[int, int, int], depths: Mapping[str, int]) -> None:
    places = {(image.shape[0], *image.shape[2:4]) for image in images.values()}
    if len(places) != 1:
        shapes = {name: image.shape for name, image in images.items()}
        raise ValueError(f"the images {shapes} are not crops of the same places")
    for name, image in images.items():
        if not 1 <= depths[name] <= min(patch[0], image.shape[1]):
            raise ValueError(
                f"a depth of {depths[name]} does not fit a patch of {patch} and the image {name} {image.shape}"
            )
