"""Losses against VisCy's numbers, against SciPy in float64, and on the images that make naive formulas fail."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from vsjax.errors import UserError
from vsjax.losses import BETAS, check_scales, l1, l2, masked_mse, mixed_loss, ms_ssim_25d, ssim_25d


def rolled(array):
    """`[B, C, Z, Y, X]` -> `[B, Z, Y, X, C]`."""
    return np.moveaxis(array, 1, -1)


@pytest.fixture(scope="module")
def golden(shared):
    arrays = np.load(shared / "golden" / "losses.npz")
    numbers = json.loads((shared / "golden" / "losses.json").read_text())
    return {name: arrays[name] for name in arrays}, numbers


@pytest.fixture(scope="module")
def pair():
    """A smooth target of two channels and an imperfect prediction of it, [2, 3, 96, 104, 2], z-scored."""
    rng = np.random.default_rng(0)
    target = ndimage.gaussian_filter(rng.normal(size=(2, 3, 96, 104, 2)), (0, 1, 3, 3, 0))
    target = (target - target.mean()) / target.std()
    prediction = 0.8 * target + 0.1 + 0.3 * rng.normal(size=target.shape)
    return prediction.astype(np.float32), target.astype(np.float32)


def reference_ssim(prediction, target, data_range):
    """SSIM and contrast term per sample in float64, with SciPy's uniform filter over (Z, 11, 11)."""
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)

    def mean(image):
        flat = image.mean(axis=1)
        return ndimage.uniform_filter(flat, (0, 11, 11, 0))[:, 5:-5, 5:-5]

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_p, mean_t = mean(prediction), mean(target)
    variance = mean(prediction**2) - mean_p**2 + mean(target**2) - mean_t**2
    contrast = (2 * (mean(prediction * target) - mean_p * mean_t) + c2) / (variance + c2)
    ssim = contrast * (2 * mean_p * mean_t + c1) / (mean_p**2 + mean_t**2 + c1)
    return ssim.mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))


def test_golden_parts(golden):
    arrays, numbers = golden
    pred, target = rolled(arrays["pred"]), rolled(arrays["target"])
    assert float(l1(pred, target).mean()) == pytest.approx(numbers["fp32/l1"], rel=1e-5)
    assert float(l2(pred, target).mean()) == pytest.approx(numbers["fp32/l2"], rel=1e-5)
    np.testing.assert_allclose(jax.jit(ssim_25d)(pred, target), numbers["fp32/ssim_25d"], rtol=1e-4)
    similarity = float(jax.jit(ms_ssim_25d)(pred, target).mean())
    assert similarity == pytest.approx(numbers["fp32/ms_ssim_25d_clamp"], abs=1e-5)
    assert 1 - similarity == pytest.approx(numbers["fp32/ms_dssim"], rel=1e-4)


def test_golden_mixed_loss_and_gradient(golden):
    arrays, numbers = golden
    pred, target = rolled(arrays["pred"]), rolled(arrays["target"])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: mixed_loss(p, target).mean()))(pred)
    assert float(value) == pytest.approx(numbers["fp32/mixed_0.5_0_0.5"], rel=1e-5)
    expected = rolled(arrays["mixed_grad"])
    # VisCy's own float32 gradient is 1.1e-4 (of its norm) away from its float64 one; ours is 1e-6 away from that.
    assert np.linalg.norm(gradient - expected) < 1.5e-4 * np.linalg.norm(expected)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    assert np.linalg.norm(gradient) == pytest.approx(numbers["fp32/mixed_0.5_0_0.5_gradnorm"], rel=1e-4)


def test_golden_masked_mse_is_channels_times_ours(golden):
    arrays, numbers = golden
    mask = arrays["mask"][:, 0]
    ours = np.asarray(masked_mse(rolled(arrays["pred"]), rolled(arrays["target"]), mask))
    hidden = mask.sum(axis=(1, 2))
    channels = arrays["pred"].shape[1]
    assert channels * (ours * hidden).sum() / hidden.sum() == pytest.approx(numbers["masked_mse"], rel=1e-5)


def test_masked_mse_sees_hidden_positions_only(pair):
    prediction, target = pair
    mask = np.random.default_rng(1).random((2, 96, 104)) < 0.4
    mask[1] = False
    expected = np.mean((prediction[0] - target[0])[:, mask[0]] ** 2)
    np.testing.assert_allclose(masked_mse(prediction, target, mask[..., None]), [expected, 0.0], rtol=1e-5)


def test_ssim_equals_float64_reference(pair):
    prediction, target = pair
    expected, _ = reference_ssim(prediction, target, target.max())
    np.testing.assert_allclose(ssim_25d(prediction, target), expected, rtol=1e-5)


def test_ssim_keeps_its_digits_far_from_zero(pair):
    """Raw camera counts: a mean of 3000 with a spread of 1 makes E[x²] - E[x]² useless in float32."""
    prediction, target = (image + np.float32(3000) for image in pair)
    expected, _ = reference_ssim(prediction, target, 10.0)
    np.testing.assert_allclose(ssim_25d(prediction, target, data_range=10.0), expected, rtol=1e-3)


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_fewer_scales_use_the_first_betas_renormalised(pair, scales):
    prediction, target = (image.astype(np.float64) for image in pair)
    betas = np.asarray(BETAS[:scales]) / sum(BETAS[:scales])
    expected = np.ones(2)
    for scale in range(scales):
        ssim, contrast = reference_ssim(prediction, target, target.max())
        expected *= np.maximum(ssim if scale == scales - 1 else contrast, 1e-4) ** betas[scale]
        prediction, target = (measure.block_reduce(image, (1, 1, 2, 2, 1), np.mean) for image in (prediction, target))
    np.testing.assert_allclose(ms_ssim_25d(*pair, scales=scales), expected, rtol=1e-4)


def test_perfect_prediction_costs_nothing(pair):
    _, target = pair
    np.testing.assert_allclose(mixed_loss(target, target, l2=1.0, scales=4), 0.0, atol=1e-6)


def test_weights_combine_the_parts(pair):
    prediction, target = pair
    expected = 0.2 * l1(prediction, target) + 3 * l2(prediction, target)
    expected += 0.7 * (1 - ms_ssim_25d(prediction, target, scales=3))
    np.testing.assert_allclose(mixed_loss(prediction, target, 0.2, 3.0, 0.7, scales=3), expected, rtol=1e-6)


def test_with_a_given_range_a_sample_does_not_see_its_batch(pair):
    prediction, target = pair
    both = ms_ssim_25d(prediction, target, scales=3, data_range=np.asarray([4.0, 5.0]))
    alone = ms_ssim_25d(prediction[1:], target[1:], scales=3, data_range=5.0)
    np.testing.assert_allclose(both[1:], alone, rtol=1e-6)


TWO_SCALES = jax.jit(jax.value_and_grad(lambda p, t: mixed_loss(p, t, scales=2).sum()))


def constant(value):
    return np.full((1, 2, 32, 32, 1), value, np.float32)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (constant(0.0), constant(0.0)),
        (constant(1.0), constant(1.0)),
        (constant(0.3), constant(-2.0)),
        (constant(1e4), constant(0.0)),
        (np.random.default_rng(0).normal(size=(1, 2, 32, 32, 1)).astype(np.float32), constant(0.0)),
        (constant(0.0), np.random.default_rng(0).normal(size=(1, 2, 32, 32, 1)).astype(np.float32)),
    ],
)
def test_flat_images_have_a_finite_loss_and_gradient(prediction, target):
    value, gradient = TWO_SCALES(prediction, target)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_anticorrelated_prediction_is_clamped_not_nan(pair):
    _, target = pair
    value, gradient = jax.jit(jax.value_and_grad(lambda p: mixed_loss(p, target, scales=4).sum()))(-target)
    assert np.isfinite(gradient).all()
    similarity = ms_ssim_25d(-target, target, scales=4)
    assert similarity.min() >= 1e-4
    assert similarity.max() < 0.01
    assert float(value) == pytest.approx(float((0.5 * l1(-target, target) + 0.5 * (1 - similarity)).sum()), rel=1e-5)


def test_gradient_agrees_with_finite_differences(pair):
    prediction, target = (image[:1, :, :48, :48] for image in pair)
    direction = np.random.default_rng(2).normal(size=prediction.shape).astype(np.float32)

    @jax.jit
    def along(step):
        return mixed_loss(prediction + step * direction, target, 0.0, 0.0, 1.0, scales=3).sum()

    slope = float(jax.jit(jax.grad(along))(0.0))
    assert slope == pytest.approx(float(along(0.01) - along(-0.01)) / 0.02, rel=1e-2)


def test_bfloat16_input_is_computed_in_float32(pair):
    prediction, target = (jnp.asarray(image, jnp.bfloat16) for image in pair)
    expected = mixed_loss(prediction.astype(jnp.float32), target.astype(jnp.float32), scales=4)
    value = mixed_loss(prediction, target, scales=4)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, expected)


def test_user_errors_name_the_size_and_the_remedy(pair):
    with pytest.raises(UserError, match=r"96 x 104 pixels .* 5 scales, which needs 176 x 176.*loss.scales to 4"):
        mixed_loss(*pair)
    with pytest.raises(UserError, match="0 is not between 1 and 5"):
        ms_ssim_25d(*pair, scales=0)
    with pytest.raises(UserError, match="weight of 0"):
        check_scales((10, 64), 1)
    with pytest.raises(UserError, match="one must be positive"):
        mixed_loss(*pair, 0.0, 0.0, 0.0)
    check_scales((176, 176), 5)
