"""The device metrics against NumPy, SciPy and scikit-image in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vsjax import metrics


def reference(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """One `[Z, Y, X]` stack, float64, from other people's code where there is any."""
    p, t = prediction.astype(np.float64), target.astype(np.float64)
    span = np.ptp(t)
    slices = [
        structural_similarity(
            a, b, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11
        )
        for a, b in zip(p, t, strict=True)
    ]
    return {
        "pearson": pearsonr(p.ravel(), t.ravel()).statistic,
        "ssim": np.mean(slices),
        "psnr": peak_signal_noise_ratio(t, p, data_range=span),
        "mse": np.mean((p - t) ** 2),
        "mae": np.mean(np.abs(p - t)),
        "r2": 1 - np.sum((p - t) ** 2) / np.sum((t - t.mean()) ** 2),
    }


def images(scale: float, offset: float, shape: tuple[int, ...] = (2, 3, 40, 37, 2)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.gamma(2.0, 1.0, shape)
    target[:, :, 10:25, 5:20] += 4 * np.arange(1, 3)
    prediction = 0.8 * target + 0.4 + rng.normal(0, 0.7, shape)
    return (prediction * scale + offset).astype(np.float32), (target * scale + offset).astype(np.float32)


@pytest.mark.parametrize("name", ["pearson", "ssim", "psnr", "mse", "mae", "r2"])
@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1.0, 0.0), (30.0, 30000.0), (1e-4, 0.0), (3000.0, -500.0)],
    ids=["z", "offset", "small", "raw"],
)
def test_agrees_with_float64_reference(name, scale, offset):
    prediction, target = images(scale, offset)
    got = jax.jit(getattr(metrics, name))(prediction, target)
    want = [[reference(prediction[b, ..., c], target[b, ..., c])[name] for c in range(2)] for b in range(2)]
    # What float32 itself can hold of an image at 30000 +- 30 limits the tolerance; the reference sees the same pixels.
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_large_stack_with_offset_keeps_its_digits():
    """Millions of pixels on a pedestal, where a naive E[x²] - E[x]² in float32 has no correct digit left."""
    prediction, target = images(20.0, 20000.0, shape=(1, 4, 700, 700, 2))
    for name in ("pearson", "ssim", "r2", "mse"):
        want = [reference(prediction[0, ..., c], target[0, ..., c])[name] for c in range(2)]
        np.testing.assert_allclose(
            jax.jit(getattr(metrics, name))(prediction, target)[0], want, rtol=1e-4, err_msg=name
        )


def test_identical_images_are_perfect():
    _, target = images(100.0, 500.0)
    assert np.all(metrics.mae(target, target) == 0)
    assert np.all(metrics.mse(target, target) == 0)
    np.testing.assert_allclose(metrics.pearson(target, target), 1, atol=1e-6)
    np.testing.assert_allclose(metrics.ssim(target, target), 1, atol=1e-6)
    np.testing.assert_allclose(metrics.r2(target, target), 1, atol=1e-6)
    assert np.all(np.isposinf(metrics.psnr(target, target)))


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 12345.678])  # the mean of many 0.1 is not 0.1
def test_constant_images_give_nan_only_where_undefined(value):
    prediction, target = images(1.0, 0.0)
    flat = np.full_like(target, value)
    for name in ("pearson", "ssim", "psnr", "r2"):
        assert np.isnan(getattr(metrics, name)(prediction, flat)).all(), name
    assert np.isnan(metrics.pearson(flat, target)).all()
    for name in ("ssim", "psnr", "r2", "mae", "mse"):
        assert np.isfinite(getattr(metrics, name)(flat, target)).all(), name


def test_ssim_of_an_image_smaller_than_the_window_is_nan():
    prediction, target = images(1.0, 0.0, shape=(1, 2, 10, 37, 2))
    assert np.isnan(metrics.ssim(prediction, target)).all()


def test_samples_and_channels_do_not_mix():
    prediction, target = images(1.0, 0.0)
    spoilt = prediction.copy()
    spoilt[1, ..., 0] = 0.123 * np.arange(37)
    for name in ("pearson", "ssim", "psnr", "mse", "mae", "r2"):
        before, after = getattr(metrics, name)(prediction, target), getattr(metrics, name)(spoilt, target)
        changed = np.asarray(before != after)
        assert changed.tolist() == [[False, False], [True, False]], name


def test_bfloat16_input_is_computed_in_float32():
    prediction, target = (jnp.asarray(x, jnp.bfloat16) for x in images(1.0, 0.0))
    want = metrics.pearson(prediction.astype(jnp.float32), target.astype(jnp.float32))
    got = metrics.pearson(prediction, target)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)
