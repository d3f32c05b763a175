"""Scores of distributions: against their definitions, numerical integration and cases that can be solved."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, t

from vsjax.errors import UserError
from vsjax.uncertainty import Marginal, calibration, coverage, crps, crps_gaussian, information_gain

PIXELS = 200_000
SHARES = (0.5, 0.9)
TAU, SIGMA = 2.0, 0.5  # of the means over an image, and of the truth around them


def image(seed=0, sigma=SIGMA):
    """A known mean and spread of each pixel, and a truth that is drawn from them."""
    random = np.random.default_rng(seed)
    mean = random.normal(0, TAU, (5, PIXELS // 5))
    spread = np.full(mean.shape, sigma) if np.isscalar(sigma) else random.choice(sigma, mean.shape)
    return mean.astype(np.float32), spread.astype(np.float32), (mean + spread * random.normal(size=mean.shape))


@pytest.mark.parametrize(("mean", "spread", "target"), [(0, 1, 0), (3, 2, -4), (-1, 0.01, -0.98), (5, 0.3, 5.1)])
def test_crps_of_a_normal_distribution_is_the_integral_that_defines_it(mean, spread, target):
    def squared(x):
        return (norm.cdf(x, mean, spread) - (x >= target)) ** 2

    ends = min(mean, target) - 12 * spread, max(mean, target) + 12 * spread
    want = quad(squared, ends[0], target, points=[mean], limit=200)[0]
    want += quad(squared, target, ends[1], points=[mean], limit=200)[0]
    found = crps_gaussian(*(np.array([x], np.float64) for x in (mean, spread, target)))
    assert found[0] == pytest.approx(want, rel=1e-7)


def test_crps_of_one_value_is_the_absolute_error():
    mean, target = np.array([1.0, 2.0, 3.0]), np.array([4.0, 2.0, 2.5])
    np.testing.assert_array_equal(crps_gaussian(mean, np.zeros(3), target), [3, 0, 0.5])
    np.testing.assert_allclose(crps(np.stack([mean, mean, mean]), target), [3, 0, 0.5], atol=1e-15)


def test_crps_of_draws_is_the_sum_over_all_pairs():
    random = np.random.default_rng(0)
    draws, target = random.normal(3, 2, (6, 4, 5)).astype(np.float32), random.normal(size=(4, 5))
    x = draws.astype(np.float64)
    pairs = sum(np.abs(x[i] - x[j]) for i in range(6) for j in range(6) if i != j)
    want = np.abs(x - target).mean(axis=0) - pairs / (2 * 6 * 5)
    np.testing.assert_allclose(crps(draws, target), want, rtol=1e-12, atol=1e-14)
    for wrong in (draws[:1], draws[..., :4]):
        with pytest.raises(UserError, match=r"draws: are \[.*\] and the target \[4, 5\]; give \[N, \.\.\.\]"):
            crps(wrong, target)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_crps_of_few_draws_is_on_average_that_of_their_distribution(count):
    """Fair: the number of draws does not favour anyone."""
    random = np.random.default_rng(count)
    draws = random.normal(1, 2, (count, 100_000))
    for target in (1.0, 4.5):
        found = crps(draws, np.full(100_000, target))
        want = crps_gaussian(*(np.array([x]) for x in (1.0, 2.0, target)))[0]
        assert found.mean() == pytest.approx(want, abs=4 * found.std() / np.sqrt(found.size))


def test_crps_of_many_draws_is_that_of_their_mean_and_spread():
    mean, spread, target = (x[0, :50] for x in image(sigma=(0.2, 1.0)))
    draws = np.random.default_rng(1).normal(mean, spread, (20_000, 50))
    np.testing.assert_allclose(crps(draws, target), crps_gaussian(mean, spread, target), atol=0.03)


@pytest.mark.parametrize("claimed", [0.5, 1.0, 2.0])
def test_coverage_and_calibration_tell_by_how_much_a_spread_is_wrong(claimed):
    """Half the true spread: errors are twice what was claimed, in every bin."""
    mean, spread, target = image(sigma=(0.25, 0.5, 1.0, 2.0))
    found = coverage(mean, claimed * spread, target, SHARES)
    want = [2 * norm.cdf(claimed * norm.ppf((1 + share) / 2)) - 1 for share in SHARES]
    np.testing.assert_allclose(found, want, atol=5 * np.sqrt(0.25 / PIXELS))
    curve = calibration(mean, claimed * spread, target)
    np.testing.assert_allclose(curve.spread, claimed * np.array([0.25, 0.5, 1, 2]), rtol=1e-6)
    np.testing.assert_allclose(curve.error * claimed, curve.spread, rtol=0.02)
    assert curve.pixels.sum() == PIXELS
    slope = np.polyfit(curve.spread, curve.error, 1)[0]
    assert slope == pytest.approx(1 / claimed, rel=0.02)


def test_bins_of_the_calibration_hold_equally_many_pixels():
    """Against the pixels sorted by their spread."""
    random = np.random.default_rng(0)
    mean, target, spread = (random.normal(size=(3, 40, 50)), random.normal(size=(3, 40, 50)), random.gamma(2, 1, 6000))
    curve = calibration(mean, spread.reshape(mean.shape), target, bins=10)
    order = np.argsort(spread)
    error = (target - mean).ravel()[order].reshape(10, 600)
    assert np.abs(curve.pixels - 600).max() <= 1
    np.testing.assert_allclose(curve.spread, np.sqrt((np.sort(spread).reshape(10, 600) ** 2).mean(axis=1)), rtol=0.01)
    np.testing.assert_allclose(curve.error, np.sqrt((error**2).mean(axis=1)), rtol=0.01)


@pytest.mark.parametrize("count", [4, 8, 16])
def test_few_calibrated_draws_seem_too_sure(count):
    """By what Student's distribution says; the module's docstring has these numbers."""
    random = np.random.default_rng(0)
    draws, target = random.normal(0, 3, (count, PIXELS)), random.normal(0, 3, PIXELS)
    found = coverage(draws.mean(axis=0), draws.std(axis=0, ddof=1), target, SHARES)
    limits = norm.ppf([0.75, 0.95]) / np.sqrt(1 + 1 / count)
    np.testing.assert_allclose(found, 2 * t.cdf(limits, count - 1) - 1, atol=0.005)
    assert found[1] == pytest.approx({4: 0.76, 8: 0.84, 16: 0.87}[count], abs=0.006)


def bits(mean, spread, target, stain=None, floor=1e-6):
    return information_gain(mean, spread, target, Marginal.of(target if stain is None else stain), floor).mean()


def test_information_gain_is_the_mutual_information_where_the_truth_is_predicted():
    """Of two Gaussians in closed form; what a wrong spread or mean costs too."""
    mean, spread, target = image()
    everything = np.hypot(TAU, SIGMA)
    right = np.log2(everything / SIGMA)
    assert bits(mean, spread, target) == pytest.approx(right, abs=0.02)
    nothing = np.zeros_like(mean), np.full_like(mean, everything)
    assert bits(*nothing, target) == pytest.approx(0, abs=0.02)
    assert bits(mean, spread / 2, target) == pytest.approx(right - (1.5 * np.log2(np.e) - 1), abs=0.03)
    assert bits(mean + 1, spread, target) == pytest.approx(right - np.log2(np.e) / (2 * SIGMA**2), abs=0.03)
    assert bits(-mean, spread, target) < -10


def test_information_gain_does_not_depend_on_the_unit_nor_on_camera_counts():
    mean, spread, target = image()
    want = bits(mean, spread, target)
    stored = 1000 + 90 * mean, 90 * spread, 1000 + 90 * target
    assert bits(*stored) == pytest.approx(want, abs=1e-4)
    assert bits(*stored[:2], np.round(stored[2]).astype(np.uint16)) == pytest.approx(want, abs=0.01)


def test_the_floor_is_what_a_smaller_spread_counts_as():
    mean, spread, target = image()
    assert bits(mean, 0 * spread, target, floor=SIGMA) == pytest.approx(bits(mean, spread, target), abs=1e-6)


def test_the_marginal_is_a_density_that_many_equal_values_do_not_break():
    """As of a mostly black image."""
    random = np.random.default_rng(0)
    stain = np.where(random.random(50_000) < 0.7, 0, random.gamma(2, 300, 50_000)).astype(np.float32)
    marginal = Marginal.of(stain)
    assert np.sum(marginal.density * np.diff(marginal.edges)) == pytest.approx(1)
    assert np.isfinite(marginal.log2_density(np.array([-1e9, 0, 1, 1e9]))).all()
    smooth = Marginal.of(random.normal(5, 2, PIXELS))
    x = np.linspace(0, 10, 50)
    np.testing.assert_allclose(2 ** smooth.log2_density(x), norm.pdf(x, 5, 2), rtol=0.25, atol=0.002)
    with pytest.raises(UserError, match="stain: is constant"):
        Marginal.of(np.full(9, 3.0))
