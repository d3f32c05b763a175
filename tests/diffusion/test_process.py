"""The process against the authors' numbers, and against Gaussians written out in float64."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.diffusion.process import clamp, clean_of, draw_gamma, noise_of, noised, output_of, posterior
from vsjax.diffusion.schedule import ScheduleSettings, gammas

LEVELS = gammas(ScheduleSettings())
KINDS = ["eps", "x0", "v"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "palette_process_linear2000.npz")


@pytest.fixture(scope="module")
def pair():
    return np.random.default_rng(3).standard_normal((2, 5, 2, 4, 3)).astype(np.float32)


def test_posterior_is_that_of_the_authors(golden):
    back = posterior(LEVELS)
    np.testing.assert_allclose(back.clean, golden["posterior_mean_coef1"], **CLOSE)
    np.testing.assert_allclose(back.noisy, golden["posterior_mean_coef2"], **CLOSE)
    np.testing.assert_allclose(back.log_variance, golden["posterior_log_variance_clipped"], **CLOSE)


@pytest.mark.parametrize(("name", "limit"), [("free", None), ("clip", 1.0)])
@pytest.mark.parametrize("step", [0, 1, 500, 1999])
def test_a_step_back_is_that_of_the_authors(golden, step, name, limit):
    clean = clamp(clean_of("eps", golden["eps"], golden["y_t"], LEVELS[step]), limit and -limit, limit)
    back = posterior(LEVELS)
    spread = np.exp(0.5 * back.log_variance[step]) if step else 0
    ours = back.clean[step] * clean + back.noisy[step] * golden["y_t"] + spread * golden["z"]
    np.testing.assert_allclose(ours, golden[f"step_t{step}_{name}"], **CLOSE)


def test_levels_are_the_moments_of_the_chain_of_single_steps():
    mean, variance = 1.0, 0.0
    for step, beta in enumerate(np.linspace(1e-6, 0.01, 2000)):
        mean, variance = mean * np.sqrt(1 - beta), variance * (1 - beta) + beta
        if step in (0, 1, 700, 1999):
            one, none = jnp.ones(1), jnp.zeros(1)
            np.testing.assert_allclose(noised(one, none, LEVELS[step]), mean, rtol=1e-6)
            np.testing.assert_allclose(noised(none, one, LEVELS[step]) ** 2, variance, rtol=1e-6)


@pytest.mark.parametrize(("later", "earlier"), [(1, 0), (900, 899), (1999, 1200), (1500, 3)])
def test_posterior_follows_from_bayes_rule(later, earlier):
    alpha = np.prod(1 - np.linspace(1e-6, 0.01, 2000)[earlier + 1 : later + 1])
    before, clean, noisy = LEVELS[earlier], 0.7, -1.3
    # y_s given y_0 is a prior, y_t given y_s a likelihood of sqrt(alpha) y_s with variance 1 - alpha.
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (np.sqrt(before) * clean / (1 - before) + np.sqrt(alpha) * noisy / (1 - alpha)) / precision
    back = posterior(LEVELS[[later]], LEVELS[[earlier]])
    np.testing.assert_allclose(back.clean * clean + back.noisy * noisy, mean, rtol=1e-7)
    np.testing.assert_allclose(np.exp(back.log_variance), 1 / precision, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_clean_image_are_each_others_inverse(pair, kind):
    clean, noise = pair
    gamma = jnp.asarray([0.999999, 0.99, 0.5, 0.1, 0.01])
    noisy = noised(clean, noise, gamma)
    np.testing.assert_allclose(clean_of(kind, output_of(kind, clean, noise, gamma), noisy, gamma), clean, atol=1e-5)
    np.testing.assert_allclose(noise_of(clean, noisy, gamma)[1:], noise[1:], atol=1e-5)


def test_v_is_the_speed_of_a_turn_from_image_to_noise(pair):
    clean, noise = pair.astype(np.float64)
    angle = np.linspace(0.1, 1.5, 5).reshape(5, 1, 1, 1)  # noisy = cos clean + sin noise; v is its derivative
    noisy, v = np.cos(angle) * clean + np.sin(angle) * noise, np.cos(angle) * noise - np.sin(angle) * clean
    gamma = np.cos(angle).ravel() ** 2
    np.testing.assert_allclose(output_of("v", clean, noise, gamma), v, atol=1e-6)
    np.testing.assert_allclose(clean_of("v", v, noisy, gamma), np.cos(angle) * noisy - np.sin(angle) * v, atol=1e-6)


@pytest.mark.parametrize("as_gamma", [float, jnp.float32])
def test_both_ends_of_the_process_are_numbers(pair, as_gamma):
    clean, noise = pair
    for kind in KINDS:
        image = clean_of(kind, output_of(kind, clean, noise, as_gamma(1)), clean, as_gamma(1))
        np.testing.assert_array_equal(image, clean)
    for kind in ("x0", "v"):
        image = clean_of(kind, output_of(kind, clean, noise, as_gamma(0)), noise, as_gamma(0))
        np.testing.assert_array_equal(image, clean)
    np.testing.assert_array_equal(noise_of(clean, clean, as_gamma(1)), 0)
    np.testing.assert_array_equal(noise_of(clean, noise, as_gamma(0)), noise)


def test_clamp_takes_the_range_of_each_channel(pair):
    clean = 10 * pair[0]
    low, high = np.array([-1, 0, -20], np.float32), np.array([1, 3, 2], np.float32)
    np.testing.assert_array_equal(clamp(clean, low, high), np.minimum(np.maximum(clean, low), high))
    np.testing.assert_array_equal(clamp(clean, None, None), clean)


def test_training_levels_fill_every_interval_evenly():
    levels = np.array([0.99, 0.8, 0.5, 0.1, 0.0])
    drawn = np.asarray(jax.jit(lambda key: draw_gamma(key, levels, 40_000))(jax.random.key(0)))
    assert drawn.min() >= 0
    assert drawn.max() <= np.float32(0.99)
    for high, low in pairwise(levels):
        inside = drawn[(drawn > low) & (drawn <= high)]
        assert abs(len(inside) - 10_000) < 400  # 4.6 standard deviations
        quarters, _ = np.histogram(inside, np.linspace(low, high, 5))
        np.testing.assert_allclose(quarters, len(inside) / 4, rtol=0.08)
