"""Normalisation: round trips, statistics of a patch against NumPy, and refusal of channels without signal."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization, denormalize, location_scale, normalize, patch_location_scale
from vsjax.schema import read_section

STATS = {"mean": 120.0, "std": 15.0, "median": 118.0, "iqr": 21.0, "min": 0.0}


def counts(shape=(3, 2, 16, 18, 2), seed=0):
    """Camera counts with a different offset and spread in every sample and channel."""
    rng = np.random.default_rng(seed)
    offsets, spreads = rng.uniform(100, 3000, (3, 1, 1, 1, 2)), rng.uniform(5, 300, (3, 1, 1, 1, 2))
    return (offsets + spreads * rng.gamma(2.0, size=shape)).astype(np.float32)


def test_each_statistic_takes_its_pair():
    assert location_scale(STATS, "mean_std") == (120.0, 15.0)
    assert location_scale(STATS, "median_iqr") == (118.0, 21.0)


@pytest.mark.parametrize("statistic", ["mean_std", "median_iqr"])
def test_patch_statistics_equal_numpy(statistic):
    x = counts()
    location, scale = jax.jit(patch_location_scale, static_argnums=1)(x, statistic)
    pixels = x.astype(np.float64).reshape(3, -1, 2)
    if statistic == "mean_std":
        expected = pixels.mean(axis=1), pixels.std(axis=1)
    else:
        expected = np.median(pixels, axis=1), np.subtract(*np.percentile(pixels, [75, 25], axis=1))
    np.testing.assert_allclose(location, expected[0], rtol=1e-5)
    np.testing.assert_allclose(scale, expected[1], rtol=1e-4)


def test_normalised_patch_has_mean_zero_and_std_one():
    x = counts()
    normal = np.asarray(normalize(x, *patch_location_scale(x, "mean_std")))
    np.testing.assert_allclose(normal.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(axis=(1, 2, 3)), 1, atol=1e-4)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6),
    st.lists(st.floats(1, 1e3, width=32), min_size=6, max_size=6),
)
@settings(max_examples=25, deadline=None)
def test_denormalize_undoes_normalize(location, scale):
    location, scale = np.reshape(location, (3, 2)), np.reshape(scale, (3, 2))
    x = counts()
    back = denormalize(normalize(x, location, scale), location, scale)
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-3)


def test_an_empty_patch_normalises_to_zero():
    x = np.full((1, 2, 8, 8, 1), 37.1, np.float32)
    for statistic in ("mean_std", "median_iqr"):
        np.testing.assert_allclose(normalize(x, *patch_location_scale(x, statistic)), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "statistic", "message"),
    [
        ({"std": 0.0}, "mean_std", "channel 'A/1/0 DAPI': std is 0.0, so it is constant"),
        ({"mean": 5000.0, "std": 1e-4}, "mean_std", "constant"),
        ({"iqr": 0.0}, "median_iqr", "try statistic 'mean_std'"),
        ({"mean": float("nan"), "std": float("nan")}, "mean_std", "channel 'A/1/0 DAPI': mean nan .* not finite"),
        ({"iqr": float("inf")}, "median_iqr", "not finite"),
    ],
)
def test_channels_without_signal_are_refused_by_name(changed, statistic, message):
    with pytest.raises(UserError, match=message):
        location_scale(STATS | changed, statistic, "A/1/0 DAPI")


def test_missing_statistics_name_the_command():
    with pytest.raises(UserError, match=r"python -m vsjax\.preprocess"):
        location_scale({"mean": 1.0}, "mean_std", "DAPI")


def test_unknown_scope_and_statistic():
    with pytest.raises(UserError, match="scope: is 'plate'; it must be 'dataset', 'fov',"):
        read_section(Normalization, {"scope": "plate"}, "normalization")
    with pytest.raises(UserError, match="statistic: is 'minmax'; it must be 'mean_std' or 'median_iqr'"):
        read_section(Normalization, {"statistic": "minmax"}, "normalization")
    with pytest.raises(UserError, match="minmax"):
        patch_location_scale(np.zeros((1, 1, 2, 2, 1), np.float32), "minmax")
