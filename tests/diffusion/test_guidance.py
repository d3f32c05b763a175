"""Guidance by classes and by masks, on data of two grey values whose optimal denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.diffusion.guidance import class_guided, find_structures, mask_guided, masked
from vsjax.diffusion.process import clean_of, noise_of
from vsjax.diffusion.samplers import SamplerSettings, sample
from vsjax.diffusion.schedule import ScheduleSettings, gammas

LEVELS = gammas(ScheduleSettings())
LOW, HIGH = -0.5, 2.0  # of the data, and of its masks
DDPM = SamplerSettings(method="ddpm", steps=20)


def two_values(noisy, gamma):
    """E[clean | noisy] where each pixel is LOW or HIGH with equal chance."""
    middle, half = (HIGH + LOW) / 2, (HIGH - LOW) / 2
    away = noisy - jnp.sqrt(gamma) * middle
    return middle + half * jnp.tanh(jnp.sqrt(gamma) * half * away / (1 - gamma))


def inverted(clean):
    return jnp.where(clean > (LOW + HIGH) / 2, LOW, HIGH)


def noise_of_step(step):
    return jax.random.normal(jax.random.fold_in(jax.random.key(5), step), (4, 64))


@pytest.fixture(scope="module")
def unguided():
    first = jax.random.normal(jax.random.key(0), (4, 64))
    return first, np.asarray(jax.jit(lambda noisy: sample(two_values, noisy, LEVELS, DDPM, noise_of_step))(first))


@jax.jit
def guided(noisy, rounds):
    return mask_guided(two_values, noisy, LEVELS, DDPM, noise_of_step, segment=inverted, rounds=rounds, fraction=0.1)


@pytest.mark.parametrize(("rounds", "turned"), [(0, False), (1, True), (2, False), (3, True)])
def test_each_round_begins_with_the_mask_of_the_last(unguided, rounds, turned):
    """At a tenth of the process the image shows the mask, here the inverse of the sample that it was made of."""
    first, clean = unguided
    assert (np.minimum(abs(clean - LOW), abs(clean - HIGH)) < 0.01).all()
    assert 0.4 < (clean > 1).mean() < 0.6
    np.testing.assert_allclose(guided(first, rounds), inverted(clean) if turned else clean, atol=0.01)


def test_from_the_end_of_the_process_the_mask_is_forgotten(unguided):
    first, clean = unguided
    made = mask_guided(two_values, first, LEVELS, DDPM, noise_of_step, segment=inverted, rounds=1, fraction=1.0)
    agreement = ((np.asarray(made) > 1) == (clean > 1)).mean()
    assert 0.35 < agreement < 0.65


def test_no_two_draws_of_all_rounds_are_the_same(unguided):
    asked = []

    def noise(step):
        jax.debug.callback(lambda number: asked.append(int(number)), step)
        return noise_of_step(step)

    settings = {"segment": inverted, "rounds": 2, "fraction": 0.005}
    jax.jit(lambda noisy: mask_guided(two_values, noisy, LEVELS, DDPM, noise, **settings))(unguided[0])
    jax.effects_barrier()
    assert sorted(asked) == list(range(20 + 2 * (10 + 1)))  # half a percent of the process has ten steps


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_class_guidance_is_the_same_on_images_and_on_noise(weight):
    rng = np.random.default_rng(0)
    noisy, given, alone = rng.standard_normal((3, 2, 5)).astype(np.float32)
    guided = class_guided(lambda noisy, gamma: given, lambda noisy, gamma: alone, weight)(noisy, 0.3)
    eps_given, eps_alone = (noise_of(clean, noisy, 0.3) for clean in (given, alone))
    eps = (1 - weight) * eps_alone + weight * eps_given  # Ho and Salimans, equation 6, with 1 + w for the weight
    np.testing.assert_allclose(guided, clean_of("eps", eps, noisy, 0.3), atol=1e-5)


def test_a_mask_becomes_an_image_of_two_means():
    """Each stain's structures are found by themselves; a plane without any, or full of them, becomes its mean."""
    stains = np.random.default_rng(0).normal(loc=(0, 10), size=(2, 3, 6, 5, 2)).astype(np.float32)
    stains[1, 2, ..., 0] = -1
    stains[0, 1, ..., 0] = 1
    inside = find_structures(jnp.asarray(stains), lambda images: images > (10 if images.mean() > 5 else 0))
    found = masked(jnp.asarray(stains), inside)
    for b, z, c in np.ndindex(2, 3, 2):
        plane, where = stains[b, z, ..., c], np.asarray(inside[b, z, ..., c])
        expected = np.full_like(plane, plane.mean())
        if where.any() and not where.all():
            expected[where], expected[~where] = plane[where].mean(), plane[~where].mean()
        np.testing.assert_allclose(found[b, z, ..., c], expected, atol=1e-5)
    np.testing.assert_array_equal(inside[..., 0], stains[..., 0] > 0)
