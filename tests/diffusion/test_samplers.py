"""Samplers where the answer is known: Gaussian data, whose optimal denoiser is linear.

With it a sampler is a linear map of what it draws, so that the mean and the covariance of its samples are those of the
images of basis vectors: exact, without a single random number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.diffusion.process import clean_of
from vsjax.diffusion.samplers import SamplerSettings, Table, renoised, sample, table_of
from vsjax.diffusion.schedule import ScheduleSettings, gammas
from vsjax.errors import UserError
from vsjax.schema import parse

LEVELS = gammas(ScheduleSettings())
ZERO = gammas(ScheduleSettings(zero_terminal_snr=True))
MEAN = np.array([0.5, -1.0, 2.0])
VARIANCES = np.array([4.0, 0.5, 0.04])
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
DDPM = {"method": "ddpm"}
DATA = {"independent": np.eye(3), "correlated": TURN}  # principal axes


def optimal(axes):
    """E[clean | noisy] of the Gaussian."""
    axes, mean, variances = (jnp.asarray(a, jnp.float32) for a in (axes, MEAN, VARIANCES))

    def denoise(noisy, gamma):
        gain = jnp.sqrt(gamma) * variances / (gamma * variances + 1 - gamma)
        return mean + ((noisy - jnp.sqrt(gamma) * mean) @ axes * gain) @ axes.T

    return denoise


def moments(axes, levels, settings, start=None):
    """Mean and covariance of what a sampler makes of the process's own distribution at the start."""
    table, size = table_of(levels, settings, start), len(MEAN)
    steps, gamma = len(table.gamma), table.gamma[0]
    # Row 0 is the offset; then come unit vectors in the place of the first image, and in that of each step's noise.
    units = np.eye(1 + size * (1 + steps if table.noise.any() else 1), dtype=np.float32)[:, 1:]
    fresh = jnp.asarray(units[:, size:].reshape(len(units), -1, size))
    make = jax.jit(lambda noisy: sample(optimal(axes), noisy, levels, settings, lambda step: fresh[:, step], start))
    offset, *made = np.asarray(make(units[:, :size]), np.float64)
    linear = np.array(made) - offset
    first, others = linear[:size], linear[size:]
    covariance = gamma * axes * VARIANCES @ axes.T + (1 - gamma) * np.eye(size)
    return offset + np.sqrt(gamma) * MEAN @ first, first.T @ covariance @ first + others.T @ others


def errors(axes, levels, settings, numbers, start=None):
    """Largest error of the covariance for each number of steps, after the mean was found right."""
    found = []
    for number in numbers:
        mean, covariance = moments(axes, levels, settings.model_copy(update={"steps": number}), start)
        np.testing.assert_allclose(mean, MEAN, atol=1e-5)
        found.append(abs(covariance - axes * VARIANCES @ axes.T).max())
    return np.array(found)


@pytest.mark.parametrize(
    ("data", "method", "spacing", "eta", "least", "most", "largest"),
    [
        ("independent", "ddpm", "time", 0.0, 0.85, 1.1, 0.16),
        ("correlated", "ddpm", "time", 0.0, 0.85, 1.1, 0.16),
        ("independent", "ddim", "time", 0.0, 0.9, 1.1, 0.08),
        ("correlated", "ddim", "time", 0.5, 0.9, 1.1, 0.1),
        ("correlated", "ddim", "logsnr", 0.0, 0.9, 1.1, 0.16),
        ("independent", "dpm++", "logsnr", 0.0, 1.85, 2.15, 0.003),
        ("correlated", "dpm++", "logsnr", 0.0, 1.85, 2.15, 0.003),
        # Of order 2 but for a logarithm: the last steps do not get finer in log-SNR.
        ("correlated", "dpm++", "time", 0.0, 1.4, 2.1, 0.003),
    ],
)
def test_samples_of_a_gaussian_converge_to_it_at_the_samplers_order(data, method, spacing, eta, least, most, largest):
    error = errors(DATA[data], LEVELS, SamplerSettings(method=method, spacing=spacing, eta=eta), (40, 160))
    assert error[1] < largest  # of a largest variance of 4
    assert least < np.log2(error[0] / error[1]) / 2 < most


@pytest.mark.parametrize("spacing", ["time", "logsnr"])
def test_a_sample_from_pure_noise_is_right_where_the_schedule_ends_in_it(spacing):
    error = errors(TURN, ZERO, SamplerSettings(spacing=spacing), (40, 160))
    assert error[1] < 0.007
    assert 1.3 < np.log2(error[0] / error[1]) / 2 < 2.1


@pytest.mark.parametrize("method", ["ddim", "dpm++"])
def test_a_sample_that_starts_from_a_noisy_image_is_right(method):
    """Also, the same number of steps over a part of the process is finer than over the whole."""
    settings = SamplerSettings(method=method)
    part, whole = (errors(TURN, LEVELS, settings, (40,), start)[0] for start in (0.4, None))
    assert part < 0.5 * whole
    assert table_of(LEVELS, settings, 0.4).gamma[0] == pytest.approx(LEVELS[799], rel=1e-9)


def test_table_with_all_steps_is_the_authors(shared):
    golden = np.load(shared / "golden" / "palette_process_linear2000.npz")
    table = Table(*(column[::-1] for column in table_of(LEVELS, SamplerSettings(method="ddpm", steps=2000))))
    np.testing.assert_allclose(table.gamma, golden["gammas"], rtol=1e-5)
    np.testing.assert_allclose(table.clean, golden["posterior_mean_coef1"], rtol=1e-5)
    np.testing.assert_allclose(table.noisy, golden["posterior_mean_coef2"], rtol=1e-5)
    spread = np.exp(0.5 * golden["posterior_log_variance_clipped"])
    spread[0] = 0
    np.testing.assert_allclose(table.noise, spread, rtol=1e-5)


def test_ancestral_samples_follow_the_equation_of_the_paper():
    """A denoiser that is not linear, fresh noise at every step, in a compiled loop: against a loop in float64."""
    levels, rng = gammas(ScheduleSettings(steps=12, start=1e-3, end=0.4)), np.random.default_rng(1)
    image, fresh = rng.standard_normal((2, 3)), rng.standard_normal((12, 2, 3))

    def denoise(noisy, gamma):
        return clean_of("eps", jnp.tanh(noisy), noisy, gamma)

    settings, shown = SamplerSettings(method="ddpm", steps=12), jnp.asarray(fresh, jnp.float32)
    ours = jax.jit(lambda noisy: sample(denoise, noisy, levels, settings, lambda step: shown[step]))(image)
    betas = np.linspace(1e-3, 0.4, 12)
    left = np.cumprod(1 - betas)
    for number, t in enumerate(range(11, -1, -1)):
        variance = betas[t] * (1 - left[t - 1]) / (1 - left[t]) if t else 0
        image = (image - betas[t] / np.sqrt(1 - left[t]) * np.tanh(image)) / np.sqrt(1 - betas[t])
        image += np.sqrt(variance) * fresh[number]
    np.testing.assert_allclose(ours, image, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS, ZERO], ids=["linear", "zero"])
def test_ddim_with_all_of_its_noise_is_ddpm(levels):
    tables = [table_of(levels, SamplerSettings(steps=30, **more)) for more in (DDPM, {"method": "ddim", "eta": 1.0})]
    for one, other in zip(*tables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("spacing", ["time", "logsnr"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10_000])
def test_an_exact_estimate_is_what_comes_out(method, spacing, steps):
    """And every factor is a number, from pure noise and from the first step of the process alone."""
    settings = SamplerSettings(method=method, spacing=spacing, steps=steps)
    for levels, start in [(ZERO, None), (LEVELS, 0.3), (ZERO, 1e-9)]:
        table = table_of(levels, settings, start)
        assert all(np.isfinite(column).all() for column in table)
        assert len(table.gamma) == min(steps, max(round((start or 1) * 2000), 1))
        last = [column[-1] for column in table[1:]]
        np.testing.assert_allclose(last, [0, 1, 0, 0], atol=1e-9)
        # Along the path of one clean image the noise of the process stays in its place: its share after each step.
        after = np.append(table.gamma[1:], 1)
        np.testing.assert_allclose(
            np.sqrt(table.gamma) * table.noisy + table.clean + table.previous, np.sqrt(after), atol=1e-9
        )
        left = table.noisy**2 * (1 - table.gamma) + table.noise**2
        np.testing.assert_allclose(left, 1 - after, atol=1e-9)


def test_it_is_compiled_once_and_asks_for_the_noise_of_each_step():
    traces, asked = [], []

    @jax.jit
    def make(key):
        def noise(step):
            jax.debug.callback(lambda number: asked.append(int(number)), step)
            return jax.random.normal(jax.random.fold_in(key, step), (2, 4))

        traces.append(key)
        first = jax.random.normal(key, (2, 4))
        return sample(lambda noisy, gamma: 0.5 * noisy, first, LEVELS, SamplerSettings(method="ddpm", steps=9), noise)

    one, other = make(jax.random.key(0)), make(jax.random.key(1))
    jax.effects_barrier()
    assert len(traces) == 1
    assert sorted(asked) == sorted(2 * list(range(9)))
    assert abs(one - other).max() > 0.1


def test_renoised_is_where_a_part_of_the_process_begins():
    image, noise = np.random.default_rng(2).standard_normal((2, 4, 5)).astype(np.float32)
    gamma = table_of(LEVELS, SamplerSettings(method="ddim"), 0.35).gamma[0]
    expected = np.sqrt(gamma) * image + np.sqrt(1 - gamma) * noise
    np.testing.assert_allclose(renoised(image, noise, LEVELS, 0.35), expected, atol=1e-6)


def test_eta_of_another_sampler_is_refused():
    with pytest.raises(UserError, match="but method is dpm"):
        parse(SamplerSettings, {"eta": 0.5}, "--sampler", "give another value")
