"""Random spatial changes of all images of a sample together: rotation, scale, shear, flips, elastic deformation.

Everything in the plane (affine and elastic) is one bilinear sampling with coordinates shared by all slices and
channels; scale and flip in Z are separable from it and are one linear sampling of slices. Coordinates are relative to
the centre of the patch, in pixels. Flips are `dm_pix`'s; its affine and elastic transforms are in 2-D only, without a
bound on how far they reach, so it cannot tell how large a crop must be.
"""

import itertools
import math
from collections.abc import Collection, Mapping

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vsjax.data.augment_config import AugmentConfig
from vsjax.errors import UserError

_DRAWS = ("rotation", "scale", "shear", "flip_z", "flip_y", "flip_x", "elastic")  # each has its own random key
_ROUNDING = 1e-4  # pixels by which float32 coordinates may leave the crop that is exactly large enough


def oversized_patch(config: AugmentConfig, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """The least crop (Z, Y, X) from which every transform of `config` can fill `patch` without inventing a border.

    It is the worst case over the ranges of all transforms with a probability above zero, and keeps the parity of
    `patch`, so that the centre stays on a pixel. Equal to `patch` if there is nothing to interpolate (for right
    angles: if the patch is square). Where a stack does not have that many slices, `augment` takes fewer.
    """
    depth, height, width = patch
    depth = _grown(depth, (depth - 1) / 2 * (1 + config.scale_range_z) if config.scales_z else 0)
    if config.interpolates:
        reach_y, reach_x = _reach(config, (height - 1) / 2, (width - 1) / 2)
        return depth, _grown(height, reach_y), _grown(width, reach_x)
    if config.rotation_probability and config.rotation == "right_angles":
        return depth, _grown(height, (width - 1) / 2), _grown(width, (height - 1) / 2)
    return depth, height, width


def check_crop(config: AugmentConfig, crop: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    """Raise `UserError` if a crop (Z, Y, X) is too small to make `patch` from it: Z may lack a margin, Y and X not."""
    needed = (patch[0], *oversized_patch(config, patch)[1:])
    if any(have < need for have, need in zip(crop, needed, strict=True)):
        raise UserError(
            f"augment: a patch of {patch} (z, y, x) needs crops of at least {needed}, but these are {tuple(crop)}; "
            "make the patch smaller, the ranges narrower, or set augment.rotation='right_angles' and no scale or shear"
        )


def transform(
    key: Array,
    volumes: Mapping[str, Array],
    config: AugmentConfig,
    patch: tuple[int, int, int],
    depths: Mapping[str, int],
    nearest: Collection[str] = (),
) -> dict[str, Array]:
    """Apply one sample's random spatial transforms to all of its images.

    Each `[Z', Y', X', C]`, of a depth of its own but centred on the same point, becomes `[depths[name], Y, X, C]`, the
    middle of the patch's slices. Slices beyond the first and the last that were given repeat these. Those named in
    `nearest` (labels) take the value of the nearest pixel, the others are interpolated.
    """
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(_DRAWS)}
    if config.interpolates:
        plane = next(iter(volumes.values())).shape[1:3]
        y, x = _plane_positions(keys, config, patch, plane)
        volumes = {
            name: (_nearest_in_plane if name in nearest else _sample_plane)(volume, y, x)
            for name, volume in volumes.items()
        }
    else:
        volumes = dict(zip(volumes, _turn_and_flip(keys, config, tuple(volumes.values()), patch), strict=True))
    return {
        name: _take_slices(keys, config, volume, patch[0], depths[name], name in nearest)
        for name, volume in volumes.items()
    }


def _grown(size: int, reach: float) -> int:
    """The least size not below `size`, of the same parity, whose pixel centres extend to `reach` from the middle."""
    return size + 2 * max(0, math.ceil(reach - (size - 1) / 2 - _ROUNDING))


def _reach(config: AugmentConfig, half_y: float, half_x: float) -> tuple[float, float]:
    """How far from the centre, in Y and X, sampling positions can lie for a patch of these half sizes.

    For a given angle a position is multilinear in everything else, so the extremes are at the ends of the ranges.
    """
    if config.elastic_probability:
        half_y, half_x = half_y + config.elastic_amplitude, half_x + config.elastic_amplitude
    scale = config.scale_range_xy if config.scale_probability else 0.0
    shear = config.shear_range if config.shear_probability else 0.0
    ends = itertools.product((-1, 1), repeat=5)  # of one corner (the opposite one mirrors it), two scales, two shears
    reach_y = reach_x = 0.0
    for corner, end_y, end_x, shear_y, shear_x in ends:
        if config.isotropic_xy and end_y != end_x:
            continue
        y, x = half_y * (1 + end_y * scale), corner * half_x * (1 + end_x * scale)
        y, x = y + shear_y * shear * x, x + shear_x * shear * y
        reach_y = max(reach_y, _largest_turned(config, y, x))
        reach_x = max(reach_x, _largest_turned(config, x, -y))
    return reach_y, reach_x


def _largest_turned(config: AugmentConfig, y: float, x: float) -> float:
    """The largest |y cos(t) - x sin(t)| over the angles t that can be drawn."""
    if not config.rotation_probability:
        return abs(y)
    if config.rotation == "right_angles":
        return max(abs(y), abs(x))
    length, phase = math.hypot(y, x), math.atan2(x, y)  # the expression is length * cos(t + phase)
    low, high = phase - config.rotation_range, phase + config.rotation_range
    if math.ceil(low / math.pi) * math.pi <= high:  # a multiple of pi, where |cos| is 1, lies between
        return length
    return length * max(abs(math.cos(low)), abs(math.cos(high)))


def _happens(key: Array, probability: float) -> Array:
    return jax.random.bernoulli(jax.random.fold_in(key, 0), probability)


def _within(key: Array, half_range: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=-half_range, maxval=half_range)


def _quarter_turns(keys: dict[str, Array], config: AugmentConfig) -> Array:
    turns = jax.random.randint(jax.random.fold_in(keys["rotation"], 1), (), 0, 4)
    return jnp.where(_happens(keys["rotation"], config.rotation_probability), turns, 0)


def _scale_draws(keys: dict[str, Array], config: AugmentConfig) -> tuple[Array, Array, Array]:
    """Factors of the sampling step in Z, Y, X."""
    draws = _within(keys["scale"], 1.0, (3,)) * _happens(keys["scale"], config.scale_probability)
    y, x = draws[1], draws[1 if config.isotropic_xy else 2]
    return 1 + config.scale_range_z * draws[0], 1 + config.scale_range_xy * y, 1 + config.scale_range_xy * x


def _plane_matrix(keys: dict[str, Array], config: AugmentConfig) -> Array:
    """The 2 x 2 matrix from positions in the patch to positions in the crop: rotation, shear, scale, flip in turn."""
    if config.rotation == "right_angles":
        turns = _quarter_turns(keys, config)
        cos, sin = jnp.asarray([1.0, 0.0, -1.0, 0.0])[turns], jnp.asarray([0.0, 1.0, 0.0, -1.0])[turns]
    else:
        angle = _within(keys["rotation"], config.rotation_range)
        angle *= _happens(keys["rotation"], config.rotation_probability)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
    shear_y, shear_x = _within(keys["shear"], config.shear_range, (2,)) * _happens(
        keys["shear"], config.shear_probability
    )
    _, scale_y, scale_x = _scale_draws(keys, config)
    scale_y *= 1 - 2 * _happens(keys["flip_y"], config.flip_y_probability)
    scale_x *= 1 - 2 * _happens(keys["flip_x"], config.flip_x_probability)
    # Written out: a matrix product may be computed with fewer digits on an accelerator.
    yy, yx, xy, xx = cos - sin * shear_x, cos * shear_y - sin, sin + cos * shear_x, sin * shear_y + cos
    return jnp.stack([jnp.stack([yy * scale_y, yx * scale_x]), jnp.stack([xy * scale_y, xx * scale_x])])


def _plane_positions(
    keys: dict[str, Array], config: AugmentConfig, patch: tuple[int, int, int], crop_yx: tuple[int, int]
) -> tuple[Array, Array]:
    """Where in the crop each pixel of the patch is sampled: Y and X positions, `[Y, X]` each."""
    _, height, width = patch
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    if config.elastic_probability:
        amplitude = config.elastic_amplitude * _happens(keys["elastic"], config.elastic_probability)
        shift = amplitude * smooth_field(keys["elastic"], (height, width), config.elastic_spacing, 2)
        y, x = y + shift[..., 0], x + shift[..., 1]
    matrix = _plane_matrix(keys, config)
    middle_y = (height - 1) / 2 + (crop_yx[0] - height) // 2
    middle_x = (width - 1) / 2 + (crop_yx[1] - width) // 2
    return matrix[0, 0] * y + matrix[0, 1] * x + middle_y, matrix[1, 0] * y + matrix[1, 1] * x + middle_x


def smooth_field(key: Array, shape_yx: tuple[int, int], spacing: float, fields: int) -> Array:
    """Random smooth fields `[Y, X, fields]` between -1 and 1: cubic B-splines over uniform control values.

    A B-spline is a weighted mean of its control values, so it keeps within their bounds; its second derivatives are
    continuous. `spacing` is the distance of the control points in pixels.
    """
    weights_y, weights_x = _spline_weights(shape_yx[0], spacing), _spline_weights(shape_yx[1], spacing)
    control = _within(key, 1.0, (weights_y.shape[1], weights_x.shape[1], fields))
    return jnp.einsum("yi,xj,ijf->yxf", weights_y, weights_x, control, precision="highest")


def _spline_weights(size: int, spacing: float) -> np.ndarray:
    """Weights `[size, control points]` of the uniform cubic B-spline at pixels 0, 1, ..."""
    position = np.arange(size) / spacing
    knot = np.floor(position).astype(int)
    u = position - knot
    pieces = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]) / 6
    weights = np.zeros((size, knot[-1] + 4), np.float32)
    for offset, piece in enumerate(pieces):
        weights[np.arange(size), knot + offset] = piece
    return weights


def _sample_plane(volume: Array, y: Array, x: Array) -> Array:
    """Bilinear samples of `[Z, Y', X', C]` at positions y, x `[Y, X]`, the same for all slices and channels.

    One index per pixel and corner gathers all slices: on a CPU this is some five times faster than a gather after
    moving Z beside C, because that copy costs more than the gather.
    """
    height, width = volume.shape[1:3]
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    y0 = jnp.clip(jnp.floor(y), 0, max(height - 2, 0)).astype(jnp.int32)
    x0 = jnp.clip(jnp.floor(x), 0, max(width - 2, 0)).astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, height - 1), jnp.minimum(x0 + 1, width - 1)
    weight_y, weight_x = (y - y0)[..., None], (x - x0)[..., None]

    def at(row: Array, column: Array) -> Array:
        return volume.at[:, row, column].get(mode="promise_in_bounds")

    upper = at(y0, x0) * (1 - weight_x) + at(y0, x1) * weight_x
    lower = at(y1, x0) * (1 - weight_x) + at(y1, x1) * weight_x
    return upper * (1 - weight_y) + lower * weight_y


def _nearest_in_plane(volume: Array, y: Array, x: Array) -> Array:
    """The pixels of `[Z, Y', X', C]` nearest to positions y, x `[Y, X]`, the same for all slices and channels."""
    row, column = (
        jnp.clip(jnp.floor(position + 0.5), 0, size - 1).astype(jnp.int32)
        for position, size in zip((y, x), volume.shape[1:3], strict=True)
    )
    return volume.at[:, row, column].get(mode="promise_in_bounds")


def _turn_and_flip(
    keys: dict[str, Array], config: AugmentConfig, volumes: tuple[Array, Array], patch: tuple[int, int, int]
) -> list[Array]:
    """Multiples of 90° and flips in the plane by moving pixels only, then the central crop."""
    turns = jnp.zeros((), jnp.int32)
    if config.rotation == "right_angles":
        turns = _quarter_turns(keys, config)
    flip_y = _happens(keys["flip_y"], config.flip_y_probability)
    flip_x = _happens(keys["flip_x"], config.flip_x_probability)
    transpose = turns % 2 == 1
    # A turn by 90° is a transposition and a flip, one by 180° both flips, one by 270° a transposition and the other.
    flip_y, flip_x = flip_y ^ ((turns == 2) | (turns == 3)), flip_x ^ ((turns == 1) | (turns == 2))
    results = []
    for volume in volumes:
        if config.rotation == "right_angles" and config.rotation_probability:
            side = max(patch[1:])
            volume = _central(_central(volume, side, 1), side, 2)
            volume = jnp.where(transpose, jnp.swapaxes(volume, 1, 2), volume)
        volume = _central(_central(volume, patch[1], 1), patch[2], 2)
        volume = jnp.where(flip_y, dm_pix.flip_up_down(volume), volume)
        results.append(jnp.where(flip_x, dm_pix.flip_left_right(volume), volume))
    return results


def _take_slices(
    keys: dict[str, Array], config: AugmentConfig, volume: Array, patch_depth: int, depth: int, nearest: bool
) -> Array:
    """The central `depth` slices of `[Z', Y, X, C]`, scaled and flipped in Z about the middle of the patch."""
    if config.flip_z_probability == 0 and not config.scales_z:
        return _central(volume, depth, 0)
    first, middle = (patch_depth - depth) // 2, (patch_depth - 1) / 2
    factor = _scale_draws(keys, config)[0] * (1 - 2 * _happens(keys["flip_z"], config.flip_z_probability))
    z = (jnp.arange(depth) + first - middle) * factor + middle - first + (volume.shape[0] - depth) // 2
    z = jnp.clip(z, 0, volume.shape[0] - 1)
    if nearest:
        return volume[jnp.floor(z + 0.5).astype(jnp.int32)]
    below = jnp.floor(z).astype(jnp.int32)
    weight = (z - below)[:, None, None, None]
    above = jnp.minimum(below + 1, volume.shape[0] - 1)
    return volume[below] * (1 - weight) + volume[above] * weight


def _central(volume: Array, size: int, axis: int) -> Array:
    """The middle `size` of this axis."""
    start = (volume.shape[axis] - size) // 2
    return jax.lax.slice_in_dim(volume, start, start + size, axis=axis)
