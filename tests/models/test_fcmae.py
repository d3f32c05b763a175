"""The masked autoencoder: what is hidden must stay hidden, and the mask must be a function of its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsjax.models.fcmae import enlarge_mask, random_mask
from vsjax.models.registry import build_model

SMALL = {"encoder_blocks": (1, 1), "dims": (8, 16), "depthwise": "conv"}  # conv compiles faster


@pytest.mark.parametrize("stem", [(5, 4, 4), (1, 2, 2)])
def test_hidden_pixels_do_not_reach_the_output(stem, random_variables):
    model = build_model("fcmae", in_stack_depth=stem[0], stem_kernel_size=stem, **SMALL)
    plane = 3 * model.mask_stride
    x = jax.random.normal(jax.random.key(2), (2, stem[0], plane, plane, 1))
    mask = random_mask(jax.random.key(3), 2, (3, 3), 0.5)
    hidden = enlarge_mask(mask, model.mask_stride)[:, None, :, :, None]
    variables = random_variables(model, x)
    run = jax.jit(lambda x, mask: model.apply(variables, x, train=False, mask=mask))
    noise = 100 * jax.random.normal(jax.random.key(4), x.shape)
    y = run(x, mask)
    np.testing.assert_array_equal(y, run(jnp.where(hidden, noise, x), mask))
    assert jnp.abs(y - run(jnp.where(hidden, x, x + 1), mask)).max() > 1e-3


def test_an_empty_mask_is_no_mask(random_variables):
    model = build_model("fcmae", **SMALL)
    x = jax.random.normal(jax.random.key(2), (1, 5, 16, 16, 1))
    variables = random_variables(model, x)
    run = jax.jit(lambda mask: model.apply(variables, x, train=False, mask=mask))
    np.testing.assert_allclose(run(None), run(jnp.zeros((1, 2, 2), bool)), rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_where_everything_is_hidden(random_variables):
    """Silent channels have a norm of zero, whose slope is not finite."""
    model = build_model("fcmae", **SMALL)
    x = jax.random.normal(jax.random.key(2), (1, 5, 8, 8, 1))
    variables = random_variables(model, x)
    grads = jax.jit(jax.grad(lambda v: model.apply(v, x, train=True, mask=jnp.ones((1, 1, 1), bool)).sum()))(variables)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), ratio=st.floats(0, 1), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_mask_hides_the_exact_share_of_every_sample(rows, columns, ratio, seed):
    mask = random_mask(jax.random.key(seed), 3, (rows, columns), ratio)
    assert mask.shape == (3, rows, columns)
    assert (mask.sum(axis=(1, 2)) == int(rows * columns * ratio)).all()
    np.testing.assert_array_equal(mask, random_mask(jax.random.key(seed), 3, (rows, columns), ratio))


def test_every_cell_is_hidden_equally_often():
    masks = random_mask(jax.random.key(0), 4000, (4, 4), 0.5)
    share = masks.mean(axis=0)
    assert jnp.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(4000)


def test_one_slice_goes_through_the_flat_stem(random_variables):
    """A stack and a single slice use different weights of one network (the paper pre-trains on both)."""
    model = build_model("fcmae", **SMALL)
    x = jax.random.normal(jax.random.key(0), (1, 5, 8, 8, 1))
    variables = random_variables(model, x)
    run = jax.jit(lambda v, x: model.apply(v, x, train=False))
    before = run(variables, x), run(variables, x[:, :1])
    kernel = variables["params"]["stem"]["conv2d"]["kernel"]
    variables["params"]["stem"]["conv2d"]["kernel"] = -kernel
    after = run(variables, x), run(variables, x[:, :1])
    np.testing.assert_array_equal(before[0], after[0])
    assert jnp.abs(before[1] - after[1]).max() > 1e-3
