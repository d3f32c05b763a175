"""The pixel level against SciPy, scikit-image and plain NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from vsjax import metrics as device
from vsjax.evaluation import pixel
from vsjax.evaluation.pairing import Pair


def pair(prediction: np.ndarray, target: np.ndarray) -> Pair:
    stacks = (np.asarray(x, np.float32) for x in (prediction, target))
    return Pair("A/1/0", 0, "nuclei", *stacks, pixel_size_um=(1.0, 1.0, 1.0), units="target")


def measure(prediction: np.ndarray, target: np.ndarray) -> tuple[dict[str, float], list[str]]:
    measurement = pixel.measure(pair(prediction, target))
    return measurement.values, measurement.notes


def images(scale: float = 1.0, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    target = rng.gamma(2.0, 1.0, (4, 33, 47))
    prediction = 0.7 * target + 0.3 + rng.normal(0, 0.5, target.shape)
    return (prediction * scale + offset).astype(np.float32), (target * scale + offset).astype(np.float32)


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (50, 40000), (1e-5, 0)])
def test_agrees_with_other_implementations(scale, offset):
    prediction, target = images(scale, offset)
    values, notes = measure(prediction, target)
    p, t = prediction.astype(np.float64), target.astype(np.float64)
    span = np.ptp(t)
    ssim = [structural_similarity(a, b, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                  win_size=11) for a, b in zip(p, t, strict=True)]  # fmt: skip
    want = {
        "pearson": pearsonr(p.ravel(), t.ravel()).statistic,
        "ssim": np.mean(ssim),
        "psnr": peak_signal_noise_ratio(t, p, data_range=span),
        "mse": mean_squared_error(p, t),
        "mae": np.abs(p - t).mean(),
        "r2": 1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum(),
    }
    assert notes == []
    assert values.keys() == want.keys() == pixel.METRICS.keys()
    for name in want:
        assert values[name] == pytest.approx(want[name], rel=1e-9), name


def test_agrees_with_the_metrics_of_training():
    prediction, target = images()
    values, _ = measure(prediction, target)
    for name, value in values.items():
        on_device = getattr(device, name)(prediction[None, ..., None], target[None, ..., None])
        assert float(on_device[0, 0]) == pytest.approx(value, rel=1e-5), name


def test_perfect_prediction():
    _, target = images()
    values, notes = measure(target, target)
    assert values == pytest.approx({"pearson": 1, "ssim": 1, "psnr": np.inf, "mse": 0, "mae": 0, "r2": 1})
    assert notes == []


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_pearson_ignores_gain_and_offset_and_the_mean_scores_zero_r2(gain, offset):
    prediction, target = images()
    before, _ = measure(prediction, target)
    after, _ = measure(prediction * gain + offset, target)
    assert after["pearson"] == pytest.approx(before["pearson"], abs=1e-5)
    flat, _ = measure(np.full_like(target, target.mean(dtype=np.float64)), target)
    assert flat["r2"] == pytest.approx(0, abs=1e-6)


def test_constant_target_and_prediction_are_nan_with_a_note():
    prediction, target = images()
    values, notes = measure(prediction, np.full_like(target, 0.1))
    assert {name for name, value in values.items() if np.isnan(value)} == {"pearson", "ssim", "psnr", "r2"}
    assert len(notes) == 1
    assert "target is constant" in notes[0]
    values, notes = measure(np.full_like(target, 0.1), target)
    assert {name for name, value in values.items() if np.isnan(value)} == {"pearson"}
    assert "prediction is constant" in notes[0]


def test_target_with_nan_says_how_many():
    prediction, target = images()
    target[1, 2, 3:8] = np.nan
    values, notes = measure(prediction, target)
    assert np.isnan(list(values.values())).all()
    assert "5 non-finite" in notes[0]


def test_image_smaller_than_the_window_has_everything_but_ssim():
    prediction, target = images()
    values, notes = measure(prediction[:, :10], target[:, :10])
    assert {name for name, value in values.items() if np.isnan(value)} == {"ssim"}
    assert "no SSIM" in notes[0]
