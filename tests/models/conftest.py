"""Fixtures of the networks' tests."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_variables():
    """`random_variables(model, *inputs)`: variables in which no tensor is zero, without compiling the initialisers."""

    def make(model, *inputs):
        shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *inputs)
        rng = np.random.default_rng(0)
        leaves, tree = jax.tree.flatten(shapes)
        values = [rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) for leaf in leaves]
        return tree.unflatten([jnp.asarray(value, jnp.float32) for value in values])

    return make
