"""Changes of intensity: contrast, offset, noise, illumination, blur, gamma, against SciPy and by their statistics."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from vsjax.data.augmentation import AugmentConfig, augment
from vsjax.data.intensity_augmentation import adjust_gamma, blur


def augmented(key, source, target, config, patch, target_depth=None):
    """Source and target of a batch that holds nothing else."""
    depths = {} if target_depth is None else {"target": target_depth}
    images = augment(key, {"source": source, "target": target}, config, patch, depths)
    return images["source"], images["target"]


def noise(batch, crop, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *crop, channels)).astype(np.float32)


def test_contrast_and_offset_are_linear_with_coefficients_in_range():
    config = AugmentConfig(intensity_scale_probability=1, intensity_offset_probability=1, intensity_offset_range=0.2)
    image = noise(100, (2, 6, 6), channels=2)
    source = np.asarray(augmented(jax.random.key(0), image, image, config, (2, 6, 6))[0])
    coefficients = np.array([np.polyfit(a.ravel(), b.ravel(), 1) for a, b in zip(image, source, strict=True)])
    slopes, offsets = coefficients.T[..., None, None, None, None]
    np.testing.assert_allclose(source, image * slopes + offsets, atol=1e-5)
    assert 0.5 <= coefficients[:, 0].min() < 0.6
    assert 1.4 < coefficients[:, 0].max() <= 1.5
    assert -0.2 <= coefficients[:, 1].min() < -0.15
    assert 0.15 < coefficients[:, 1].max() <= 0.2
    assert abs(np.corrcoef(coefficients.T)[0, 1]) < 0.35


def test_noise_is_white_with_its_own_strength_per_sample():
    config = AugmentConfig(noise_probability=1, noise_std_range=(0.1, 0.4))
    image = np.zeros((60, 3, 24, 24, 2), np.float32)
    source, target = (np.asarray(a) for a in augmented(jax.random.key(0), image, image, config, (3, 24, 24)))
    assert not target.any()
    stds = source.std(axis=(1, 2, 3, 4))
    assert 0.09 < stds.min() < 0.15
    assert 0.35 < stds.max() < 0.42
    unit = source / stds[:, None, None, None, None]
    assert abs(np.mean(unit[:, :, 1:] * unit[:, :, :-1])) < 0.01
    assert abs(np.mean(unit[..., 0] * unit[..., 1])) < 0.01
    assert abs(np.mean(unit[1:] * unit[:-1])) < 0.01
    assert abs(np.mean(unit**4) - 3) < 0.1


def test_illumination_is_a_smooth_factor_and_a_smooth_offset_within_range():
    config = AugmentConfig(
        illumination_probability=1, illumination_range=0.3, illumination_offset_range=0.5, illumination_spacing=16
    )
    patch = (2, 40, 40)
    dark, bright = np.zeros((20, *patch, 1), np.float32), np.ones((20, *patch, 1), np.float32)
    offset, lit = (np.asarray(augmented(jax.random.key(0), i, i, config, patch)[0]) for i in (dark, bright))
    for field, bound in ((offset, 0.5), (lit - offset - 1, 0.3)):
        assert 0.4 * bound < np.abs(field).max() <= bound
        assert np.abs(np.diff(field, axis=2)).max() < 2 * bound / 16
        np.testing.assert_array_equal(field[:, 0], field[:, 1])
        assert np.ptp(field[:, 0, ..., 0], axis=(1, 2)).min() > 0.1 * bound


@pytest.mark.parametrize("sigmas", [(0.25, 0.75), (0.6, 0.3), (0.75, 0.75)])
def test_blur_equals_scipy(sigmas):
    image = noise(1, (2, 20, 23), channels=2)[0]
    expected = ndimage.gaussian_filter(image.astype(np.float64), (0, *sigmas, 0), radius=(0, 3, 3, 0), mode="nearest")
    np.testing.assert_allclose(blur(image, np.asarray(sigmas, np.float32), 0.75), expected, atol=1e-5)


def test_blur_of_sigma_zero_changes_nothing():
    image = noise(1, (2, 20, 23))[0]
    np.testing.assert_allclose(blur(image, np.zeros(2, np.float32), 0.75), image, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.4])
def test_gamma_of_z_scored_data_keeps_mean_and_std(exponent):
    image = np.random.default_rng(0).gamma(2.0, size=(3, 16, 16, 2)).astype(np.float32)
    image = (image - image.mean()) / image.std() * np.array([1.0, 4.0], np.float32) - np.array([0.0, 2.0], np.float32)
    result = np.asarray(adjust_gamma(image, exponent))
    np.testing.assert_allclose(result.mean(axis=(0, 1, 2)), image.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(result.std(axis=(0, 1, 2)), image.std(axis=(0, 1, 2)), rtol=1e-4)
    wide = image.astype(np.float64)
    low, high = wide.min(axis=(0, 1, 2)), wide.max(axis=(0, 1, 2))
    powered = ((wide - low) / (high - low)) ** exponent
    expected = (powered - powered.mean(axis=(0, 1, 2))) / powered.std(axis=(0, 1, 2)) * wide.std(axis=(0, 1, 2))
    np.testing.assert_allclose(result, expected + wide.mean(axis=(0, 1, 2)), atol=1e-4)


def test_gamma_leaves_a_constant_channel():
    image = noise(1, (1, 8, 8), channels=2)[0]
    image[..., 1] = -1.5
    result = np.asarray(adjust_gamma(image, 1.3))
    np.testing.assert_array_equal(result[..., 1], image[..., 1])
    assert np.isfinite(result).all()
