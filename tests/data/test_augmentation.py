"""Augmentation, seen from outside: images of coordinates show where each output pixel was sampled."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from scipy import ndimage

from vsjax.data.augmentation import AugmentConfig, augment, center_crop, oversized_patch
from vsjax.errors import UserError
from vsjax.schema import read_section

EVERYTHING = AugmentConfig(**{name: 0.5 for name in AugmentConfig.model_fields if name.endswith("_probability")})


def augmented(key, source, target, config, patch, target_depth=None):
    """Source and target of a batch that holds nothing else."""
    depths = {} if target_depth is None else {"target": target_depth}
    images = augment(key, {"source": source, "target": target}, config, patch, depths)
    return images["source"], images["target"]


def coordinates(batch, crop):
    """`[B, Z, Y, X, 3]`: the z, y and x of each pixel. Linear sampling reproduces them exactly."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in crop), indexing="ij"), axis=-1)
    return np.broadcast_to(grid, (batch, *grid.shape)).astype(np.float32)


def noise(batch, crop, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *crop, channels)).astype(np.float32)


def sampled_at(config, patch, batch, seed=0, crop=None):
    """Where each pixel of the patch was sampled, `[B, Z, Y, X, 3]`, and the image of noise sampled there."""
    crop = crop or oversized_patch(config, patch)
    image = noise(batch, crop)
    where, sampled = augmented(jax.random.key(seed), coordinates(batch, crop), image, config, patch)
    return np.asarray(where), image, np.asarray(sampled)


def fitted_matrices(where, patch):
    """Fit y, x positions by a linear map of patch positions about the centre; `[B, 2, 2]` and the worst residual."""
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in patch[1:]), indexing="ij")
    design = np.stack([y.ravel(), x.ravel(), np.ones(y.size)], axis=1)
    matrices, worst = [], 0.0
    for sample in where:
        for plane in sample:
            positions = plane[..., 1:].reshape(-1, 2).astype(np.float64)
            solution = np.linalg.lstsq(design, positions, rcond=None)[0]
            worst = max(worst, np.abs(design @ solution - positions).max())
        matrices.append(solution[:2].T)
    return np.stack(matrices), worst


ALL_AFFINE = AugmentConfig(
    rotation_probability=0.7,
    scale_probability=0.7,
    scale_range_xy=0.5,
    shear_probability=0.7,
    flip_z_probability=0.5,
    flip_y_probability=0.5,
    flip_x_probability=0.5,
)


def test_affine_samples_as_scipy_and_never_leaves_the_crop():
    patch = (4, 15, 22)
    where, image, sampled = sampled_at(ALL_AFFINE, patch, batch=24)
    _, residual = fitted_matrices(where, patch)
    assert residual < 1e-3  # a position held back at the crop's border would break the linear map
    z = where[..., 0]
    assert np.ptp(z, axis=(2, 3)).max() < 1e-5
    steps = np.diff(z[:, :, 0, 0], axis=1)
    np.testing.assert_allclose(steps, steps[:, :1].repeat(3, axis=1), atol=1e-5)
    assert 0.8 <= np.abs(steps).min() < np.abs(steps).max() <= 1.2
    for position, sample, result in zip(where, image, sampled, strict=True):
        expected = ndimage.map_coordinates(sample[..., 0], np.moveaxis(position, -1, 0), order=1, mode="nearest")
        np.testing.assert_allclose(result[..., 0], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("settings_", "holds"),
    [
        (
            {"rotation_probability": 1},
            lambda m: np.allclose(m @ m.transpose(0, 2, 1), np.eye(2), atol=1e-4) and (np.linalg.det(m) > 0).all(),
        ),
        (
            {"scale_probability": 1},
            lambda m: (
                np.abs(m[:, [0, 1], [1, 0]]).max() < 1e-4
                and m[:, [0, 1], [0, 1]].min() > 0.7
                and m[:, [0, 1], [0, 1]].max() < 1.3
                and np.abs(m[:, 0, 0] - m[:, 1, 1]).max() > 0.1
            ),
        ),
        (
            {"scale_probability": 1, "isotropic_xy": True},
            lambda m: np.abs(m[:, 0, 0] - m[:, 1, 1]).max() < 1e-4 and np.ptp(m[:, 0, 0]) > 0.3,
        ),
        (
            {"shear_probability": 1},
            lambda m: (
                np.abs(m[:, [0, 1], [0, 1]] - 1).max() < 1e-4
                and 0.04 < np.abs(m[:, [0, 1], [1, 0]]).max() <= 0.0501
                and not np.allclose(m[:, 0, 1], m[:, 1, 0])
            ),
        ),
    ],
)
def test_each_affine_transform_keeps_its_range(settings_, holds):
    patch = (1, 12, 12)
    matrices, residual = fitted_matrices(sampled_at(AugmentConfig(**settings_), patch, batch=64)[0], patch)
    assert residual < 1e-3
    assert holds(matrices)


def test_rotations_are_uniform_over_the_circle():
    patch = (1, 6, 6)
    matrices, _ = fitted_matrices(sampled_at(AugmentConfig(rotation_probability=1), patch, batch=400)[0], patch)
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    counts = np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0]
    assert ((counts - 50) ** 2 / 50).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001


def test_oversized_patch_is_the_worst_case():
    assert oversized_patch(AugmentConfig(), (13, 128, 96)) == (13, 128, 96)
    rotation = AugmentConfig(rotation_probability=0.1)
    assert oversized_patch(rotation, (5, 128, 128)) == (5, 182, 182)  # 127 * sqrt(2) + 1 = 180.6, kept even
    assert oversized_patch(rotation, (5, 3, 4)) == (5, 5, 6)  # diagonal sqrt(4 + 9) + 1 = 4.6
    small = AugmentConfig(rotation_probability=0.1, rotation_range=math.pi / 6)
    reach = 63.5 * (math.cos(math.pi / 6) + math.sin(math.pi / 6))
    assert oversized_patch(small, (5, 128, 128))[1] == 128 + 2 * math.ceil(reach - 63.5)
    scale = AugmentConfig(scale_probability=1)
    assert oversized_patch(scale, (11, 128, 128)) == (13, 168, 168)  # 10 * 1.2 + 1, 127 * 1.3 + 1 = 166.1
    right = AugmentConfig(rotation="right_angles", rotation_probability=1)
    assert oversized_patch(right, (5, 128, 128)) == (5, 128, 128)
    assert oversized_patch(right, (5, 64, 128)) == (5, 128, 128)


@given(
    patch=st.tuples(st.integers(1, 5), st.integers(2, 40), st.integers(2, 40)),
    turn=st.floats(0, 4),
    scale=st.floats(0, 0.9),
    shear=st.floats(0, 0.5),
    isotropic=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_draw_reaches_beyond_the_oversized_patch(patch, turn, scale, shear, isotropic, seed):
    """The affine map written anew in NumPy, with many draws and all ends of the ranges."""
    config = AugmentConfig(
        rotation_probability=1,
        rotation_range=turn,
        scale_probability=1,
        scale_range_xy=scale,
        shear_probability=1,
        shear_range=shear,
        isotropic_xy=isotropic,
    )
    _, height, width = oversized_patch(config, patch)
    assert (height - patch[1]) % 2 == (width - patch[2]) % 2 == 0
    rng = np.random.default_rng(seed)
    draws = np.concatenate([rng.uniform(-1, 1, (500, 5)), np.sign(rng.uniform(-1, 1, (500, 5)))])
    draws[:, 0] = rng.uniform(-1, 1, 1000)
    corners = np.array([[y, x] for y in (-0.5, 0.5) for x in (-0.5, 0.5)]) * (np.array(patch[1:]) - 1)
    most = np.zeros(2)
    for t, sy, sx, a, b in draws:
        rotation = np.array([[np.cos(t * turn), -np.sin(t * turn)], [np.sin(t * turn), np.cos(t * turn)]])
        scaling = np.diag([1 + scale * sy, 1 + scale * (sy if isotropic else sx)])
        matrix = rotation @ np.array([[1, shear * a], [shear * b, 1]]) @ scaling
        most = np.maximum(most, np.abs(corners @ matrix.T).max(axis=0))
    assert (most <= (np.array([height, width]) - 1) / 2 + 1e-3).all()
    tight = np.array([height, width]) - 4 <= np.maximum(np.array(patch[1:]), 2 * most * 1.15 + 1)
    assert tight.all()


def test_right_angles_move_pixels_only():
    config = AugmentConfig(rotation="right_angles", rotation_probability=1)
    image = noise(80, (2, 7, 7))
    source, target = augmented(jax.random.key(0), image, image, config, (2, 7, 7))
    np.testing.assert_array_equal(source, target)
    turns = [
        [k for k in range(4) if np.array_equal(result, np.rot90(sample, k, axes=(1, 2)))]
        for sample, result in zip(image, np.asarray(source), strict=True)
    ]
    assert all(len(found) == 1 for found in turns)
    assert np.bincount(np.ravel(turns), minlength=4).min() >= 8


def test_flips_and_right_angles_of_an_oblong_patch():
    config = AugmentConfig(
        rotation="right_angles", rotation_probability=1, flip_z_probability=0.5, flip_y_probability=0.5
    )
    crop = oversized_patch(config, (3, 5, 9))
    image = noise(128, crop)
    source, _ = augmented(jax.random.key(1), image, image, config, (3, 5, 9))
    seen = set()
    for sample, result in zip(image, np.asarray(source), strict=True):
        candidates = {
            (k, flip_z, flip_y): np.rot90(sample[::flip_z, ::flip_y], k, axes=(1, 2))[:, 2:7]
            for k in range(4)
            for flip_z in (1, -1)
            for flip_y in (1, -1)
        }
        found = [name for name, candidate in candidates.items() if np.array_equal(candidate, result)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 16


def test_right_angles_beside_interpolation_turn_the_same_way():
    """With a shear too small to see, sampling must give what moving pixels gives, for the same key."""
    patch = (1, 8, 8)
    moved = AugmentConfig(rotation="right_angles", rotation_probability=1, flip_x_probability=0.5)
    sampled = AugmentConfig(
        rotation="right_angles",
        rotation_probability=1,
        flip_x_probability=0.5,
        shear_probability=1,
        shear_range=1e-6,
    )
    image = noise(32, patch)
    kinds = set()
    for config in (moved, sampled):
        assert oversized_patch(config, patch) == patch
    results = [np.asarray(augmented(jax.random.key(3), image, image, c, patch)[0]) for c in (moved, sampled)]
    group = [np.rot90(image[:, :, :, ::f], k, axes=(2, 3)) for k in range(4) for f in (1, -1)]
    for result in results:
        distance = np.stack([np.abs(result - member).max(axis=(1, 2, 3, 4)) for member in group])
        assert distance.min(axis=0).max() < 1e-3
        kinds.add(tuple(np.unique(distance.argmin(axis=0))))
    assert kinds == {tuple(range(8))}


def test_elastic_displacement_is_bounded_smooth_and_sampled_as_scipy():
    config = AugmentConfig(elastic_probability=1, elastic_amplitude=5, elastic_spacing=12)
    patch = (2, 40, 44)
    crop = oversized_patch(config, patch)
    assert crop == (2, 50, 54)
    where, image, sampled = sampled_at(config, patch, batch=12)
    shift = where[..., 1:] - coordinates(1, patch)[..., 1:] - 5
    assert 1.0 < np.abs(shift).max() <= 5.001
    assert np.abs(np.diff(shift, n=2, axis=2)).max() < 6 * 5 / 12**2  # the spline's second derivative, at most 4 a / h²
    assert np.diff(where[..., 1], axis=2).min() > 0  # no folds
    for position, sample, result in zip(where, image, sampled, strict=True):
        expected = ndimage.map_coordinates(sample[..., 0], np.moveaxis(position, -1, 0), order=1)
        np.testing.assert_allclose(result[..., 0], expected, atol=2e-4)


def test_where_the_stack_is_too_short_its_last_slices_repeat():
    config = AugmentConfig(scale_probability=1, scale_range_xy=0, scale_range_z=0.3)
    patch = (7, 4, 4)
    deep = sampled_at(config, patch, batch=16)[0][..., 0]
    assert oversized_patch(config, patch) == (9, 4, 4)
    short = sampled_at(config, patch, batch=16, crop=patch)[0][..., 0]
    np.testing.assert_allclose(short, np.clip(deep - 1, 0, 6), atol=1e-5)
    assert (deep - 1 < -0.1).any()


@pytest.mark.parametrize("given_depth", [9, 3, 1])
def test_target_of_one_slice_is_the_middle_of_the_source(given_depth):
    config = AugmentConfig(rotation_probability=1, scale_probability=1, flip_z_probability=0.5)
    patch = (7, 6, 6)
    crop = oversized_patch(config, patch)
    image = noise(8, crop)
    first = (crop[0] - given_depth) // 2
    target = image[:, first : first + given_depth]
    source, middle = augmented(jax.random.key(0), image, target, config, patch, 1)
    np.testing.assert_allclose(middle, source[:, 3:4], atol=1e-5)


def test_source_and_target_move_together_and_intensity_leaves_the_target_alone():
    patch = (3, 12, 12)
    spatial_only = AugmentConfig(
        rotation_probability=0.5, scale_probability=0.5, elastic_probability=0.5, flip_z_probability=0.5
    )
    both = AugmentConfig(
        rotation_probability=0.5,
        scale_probability=0.5,
        elastic_probability=0.5,
        flip_z_probability=0.5,
        gamma_probability=1,
        noise_probability=1,
        blur_probability=1,
    )
    crop = oversized_patch(spatial_only, patch)
    assert oversized_patch(both, patch) == crop
    image = noise(8, crop, channels=2)
    source, target = augmented(jax.random.key(5), image, image, spatial_only, patch)
    np.testing.assert_array_equal(source, target)
    changed, same = augmented(jax.random.key(5), image, image, both, patch)
    np.testing.assert_allclose(same, target, atol=1e-5)
    assert np.abs(changed - source).max(axis=(1, 2, 3, 4)).min() > 0.01


def test_without_transforms_it_is_the_central_crop():
    image = noise(2, (5, 11, 12), channels=2)
    expected = image[:, 1:4, 2:9, 3:9]
    np.testing.assert_array_equal(center_crop(image, (3, 7, 6)), expected)
    source, target = augmented(jax.random.key(0), image, image + 1, AugmentConfig(), (3, 7, 6))
    np.testing.assert_array_equal(source, expected)
    np.testing.assert_array_equal(target, expected + 1)


def test_a_sample_on_which_nothing_falls_is_the_central_crop_exactly():
    patch = (3, 10, 13)
    never = AugmentConfig(**{name: 1e-12 for name in AugmentConfig.model_fields if name.endswith("_probability")})
    crop = oversized_patch(never, patch)
    assert crop[1] > 10
    image = noise(4, crop)
    source, target = augmented(jax.random.key(0), image, image, never, patch)
    np.testing.assert_array_equal(source, center_crop(image, patch))
    np.testing.assert_array_equal(target, center_crop(image, patch))


def test_same_key_same_result_whatever_the_rest_of_the_batch():
    patch = (3, 12, 12)
    image = noise(4, oversized_patch(EVERYTHING, patch), channels=2)
    key = jax.random.key(11)
    source, target = augmented(key, image, image, EVERYTHING, patch)
    again, _ = augmented(key, image, image, EVERYTHING, patch)
    np.testing.assert_array_equal(source, again)
    other = image.copy()
    other[[0, 2, 3]] = 7.0
    alone, target_alone = augmented(key, other, other, EVERYTHING, patch)
    np.testing.assert_array_equal(alone[1], source[1])
    np.testing.assert_array_equal(target_alone[1], target[1])
    different, _ = augmented(jax.random.key(12), image, image, EVERYTHING, patch)
    assert np.abs(different - source).max(axis=(1, 2, 3, 4)).min() > 1e-3


@pytest.mark.parametrize("name", ["flip_y", "scale", "gamma", "intensity_offset", "noise"])
def test_transforms_happen_as_often_as_asked_and_independently(name):
    config = AugmentConfig(**{f"{name}_probability": 0.3, "flip_z_probability": 0.5})
    patch = (2, 5, 5)
    crop = oversized_patch(config, patch)
    batch = 1000
    image = noise(batch, crop)
    image[:, : crop[0] // 2] += 100  # tells whether the stack was turned over
    source = np.asarray(augmented(jax.random.key(2), image, image, config, patch)[0])
    flipped = source[:, -1].mean(axis=(1, 2, 3)) > source[:, 0].mean(axis=(1, 2, 3))
    expected = np.asarray(center_crop(image, patch))
    expected[flipped] = expected[flipped, ::-1]
    changed = np.abs(source - expected).max(axis=(1, 2, 3, 4)) > 1e-6
    sigma = math.sqrt(0.3 * 0.7 / batch)
    assert abs(changed.mean() - 0.3) < 4 * sigma
    assert abs(changed[flipped].mean() - changed[~flipped].mean()) < 4 * 2 * sigma


def test_a_sample_does_not_depend_on_the_size_of_its_batch():
    config = AugmentConfig(flip_x_probability=0.5, noise_probability=1)
    image = noise(8, (1, 6, 6))
    eight, three = (augmented(jax.random.key(4), image[:n], image[:n], config, (1, 6, 6))[0] for n in (8, 3))
    np.testing.assert_allclose(eight[:3], three, atol=1e-6)


def test_config_comes_from_a_config_dict():
    config = read_section(AugmentConfig, ConfigDict({"gamma_probability": 1, "gamma_range": [0.9, 1.1]}), "")
    assert config == AugmentConfig(gamma_probability=1.0, gamma_range=(0.9, 1.1))
    assert hash(config) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotate_probability": 0.5}, r"augment\.rotate_probability: there is no such field; there are rotation,"),
        ({"rotation": "some"}, "is 'some'; it must be 'any' or 'right_angles'"),
        ({"noise_probability": 1.5}, r"augment\.noise_probability: is 1\.5; it must be less than or equal to 1"),
        ({"flip_x_probability": True}, r"augment\.flip_x_probability: is True; it must be a valid number"),
        ({"scale_range_xy": -0.1}, "must be greater than or equal to 0"),
        ({"gamma_range": (1.2, 0.8)}, r"augment\.gamma_range: .*must rise"),
        ({"gamma_range": 1.2}, "must be a valid tuple"),
        ({"blur_sigma_range": (0.1, float("nan"))}, r"blur_sigma_range\.1: is nan; it must be a finite"),
        ({"scale_probability": 0.5, "scale_range_xy": 1.0}, "must be less than 1 "),
        ({"elastic_probability": 0.5, "elastic_amplitude": 20.0}, "fold"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        read_section(AugmentConfig, fields, "config.augment")


def test_too_small_a_crop_is_refused_before_a_border_is_invented():
    config = AugmentConfig(rotation_probability=0.5)
    image = noise(1, (3, 20, 20))
    with pytest.raises(UserError, match=r"needs crops of at least \(3, 24, 24\), but these are \(3, 20, 20\)"):
        augmented(jax.random.key(0), image, image, config, (3, 16, 16))
    with pytest.raises(UserError, match="larger than the image"):
        center_crop(image, (3, 21, 20))
