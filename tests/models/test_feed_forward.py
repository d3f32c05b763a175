"""Products and the pointwise half of a block, against NumPy and SciPy in float64; slopes against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from vsjax.models.dense import apart, product
from vsjax.models.feed_forward import Weights, feed_forward, normal_cdf

RNG = np.random.default_rng(0)
TYPES = (jnp.float32, jnp.bfloat16)


def test_the_distribution_function_of_the_normal():
    x = np.linspace(-9, 9, 200_001, dtype=np.float32)
    np.testing.assert_allclose(normal_cdf(jnp.asarray(x)), (1 + erf(x.astype(float) / np.sqrt(2))) / 2, atol=4e-7)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "inputs", "features"), [(100, 3, 7), (64, 40, 16), (1, 5, 5), (300, 1, 4)])
def test_products_round_their_factors_and_nothing_else(dtype, rows, inputs, features):
    """Bfloat16 factors multiply exactly in float32: what comes out is the float64 product of what was rounded."""
    x, kernel, slope = (
        jnp.asarray(RNG.normal(size=shape), dtype).astype(jnp.float32)
        for shape in ((2, rows, inputs), (inputs, features), (2, rows, features))
    )
    y, back = jax.vjp(lambda x, kernel: product(x, kernel, dtype), x, kernel)
    of_x, of_kernel = back(slope)
    wide = [np.asarray(a, np.float64) for a in (x, kernel, slope)]
    assert y.dtype == of_kernel.dtype == jnp.float32
    np.testing.assert_allclose(y, wide[0] @ wide[1], atol=2e-5)
    np.testing.assert_allclose(of_kernel, np.einsum("brk,brn->kn", wide[0], wide[2]), atol=2e-5 * np.sqrt(rows))
    np.testing.assert_allclose(of_x, wide[2] @ wide[1].T, atol=1e-5 if dtype == jnp.float32 else 0.06)


def reference(x, weights, visible):
    """The layers one by one, float64."""
    wide = x @ weights.expand_kernel + weights.expand_bias
    wide = wide * (1 + erf(wide / np.sqrt(2))) / 2
    norms = [np.linalg.norm(sample[seen[..., 0] > 0], axis=0) for sample, seen in zip(wide, visible, strict=True)]
    ratio = np.stack([norm / (norm.mean() + 1e-6) for norm in norms])[:, None, None]
    wide = wide + weights.scale * wide * ratio + weights.bias
    return wide @ weights.project_kernel + weights.project_bias


def drawn(masked):
    shapes = ((6, 24), (24,), (24,), (24,), (24, 5), (5,))
    weights = Weights(*(RNG.normal(size=shape).astype(np.float32) for shape in shapes))
    x = RNG.normal(size=(2, 4, 4, 6)).astype(np.float32)
    visible = (RNG.random((2, 4, 4, 1)) < (0.5 if masked else 2)).astype(np.float32)
    return x, weights, visible


@pytest.mark.parametrize("masked", [False, True])
def test_the_wide_layer_and_its_norm_over_visible_pixels(masked):
    x, weights, visible = drawn(masked)
    ours = feed_forward(x, weights, visible if masked else None, jnp.float32)
    theirs = reference(x.astype(float), Weights(*(w.astype(float) for w in weights)), visible)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    rough = feed_forward(x, weights, visible if masked else None, jnp.bfloat16)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough, theirs, atol=0.02 * np.abs(theirs).max())


@pytest.mark.parametrize("masked", [False, True])
def test_slopes_against_differences_of_the_reference(masked):
    x, weights, visible = drawn(masked)
    towards = RNG.normal(size=(2, 4, 4, 5))
    slopes = jax.grad(
        lambda x, w: jnp.sum(towards * feed_forward(x, w, visible if masked else None, jnp.float32)), (0, 1)
    )
    ours = jax.tree.leaves(slopes(x, weights))
    values = [leaf.astype(float) for leaf in (x, *weights)]
    for index, slope in enumerate(ours):
        step = RNG.normal(size=slope.shape)
        ends = []
        for sign in (1, -1):
            moved = list(values)
            moved[index] = values[index] + sign * 1e-5 * step
            ends.append(np.sum(towards * reference(moved[0], Weights(*moved[1:]), visible)))
        assert np.sum(slope * step) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4, abs=2e-3)


def test_a_silent_channel_has_the_slope_zero():
    x, weights, _ = drawn(False)
    silent = weights._replace(expand_kernel=weights.expand_kernel * 0, expand_bias=weights.expand_bias * 0)
    slopes = jax.grad(lambda w: feed_forward(x, w, None, jnp.float32).sum())(silent)
    assert all(np.isfinite(leaf).all() for leaf in slopes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_what_is_kept_apart_keeps_every_bit(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray(np.append(np.random.default_rng(0).normal(size=100), [1 / 3, 1e-30, np.inf]), dtype)
        assert x.dtype == dtype
        np.testing.assert_array_equal(jax.jit(apart)(x), x)
