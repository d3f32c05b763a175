"""Visible cells alone against the plane with its mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.models.cells import Cells
from vsjax.models.fcmae import cells_left, enlarge_mask, random_mask
from vsjax.models.registry import build_model

RNG = np.random.default_rng(0)


def test_cells_are_cut_out_and_put_back():
    mask = random_mask(jax.random.key(0), 3, (4, 5), 0.3)
    cells = Cells.of(cells_left(mask, 0.3), (4, 5))
    plane = RNG.normal(size=(3, 8, 15, 2)).astype(np.float32)
    seen = cells.take(jnp.asarray(plane))
    for sample in range(3):
        found = np.flatnonzero(~np.asarray(mask[sample]))
        for place, (row, column) in enumerate(zip(*divmod(found, 5), strict=True)):
            theirs = plane[sample, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            np.testing.assert_array_equal(seen[sample, place], theirs)
    visible = ~np.asarray(enlarge_mask(mask, (2, 3)))[..., None]
    np.testing.assert_array_equal(cells.spread(seen), plane * visible)


def test_the_slope_of_each_is_the_other():
    """Cutting out and putting back are each other's transposes: <take(x), y> = <x, spread(y)>."""
    cells = Cells.of(cells_left(random_mask(jax.random.key(1), 2, (3, 3), 0.5), 0.5), (3, 3))
    x, y = jnp.asarray(RNG.normal(size=(2, 6, 6, 3))), jnp.asarray(RNG.normal(size=(2, 5, 2, 2, 3)))
    assert float(jnp.vdot(cells.take(x), y)) == pytest.approx(float(jnp.vdot(x, cells.spread(y))), rel=1e-5)
    of_x = jax.grad(lambda x: jnp.vdot(cells.take(x), y))(x)
    of_y = jax.grad(lambda y: jnp.vdot(x, cells.spread(y)))(y)
    np.testing.assert_allclose(of_x, cells.spread(y))
    np.testing.assert_allclose(of_y, cells.take(x))


def test_the_network_gives_what_it_gives_with_the_mask(random_variables):
    model = build_model(
        "fcmae", encoder_blocks=(2, 1, 1), dims=(8, 12, 16), stem_kernel_size=(1, 2, 2), in_stack_depth=1
    )
    x = jax.random.normal(jax.random.key(0), (2, 1, 32, 24, 1))
    variables = random_variables(model, x)
    mask = random_mask(jax.random.key(3), 2, (4, 3), 0.5)

    def loss(params, masking):
        restored = model.apply({"params": params}, x, train=True, **masking)
        return jnp.square(restored).mean(), restored

    both = jax.jit(jax.grad(loss, has_aux=True))
    theirs, restored = both(variables["params"], {"mask": mask})
    slopes, ours = both(variables["params"], {"visible_cells": cells_left(mask, 0.5)})
    np.testing.assert_allclose(ours, restored, atol=1e-4 * np.abs(restored).max())
    for slope, their in zip(jax.tree.leaves(slopes), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(slope, their, atol=1e-4 * max(1e-3, np.abs(their).max()))
