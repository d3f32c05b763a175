"""Multiply-adds against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vsjax.training.cost import multiply_adds


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv(7, (3, 3)), (2, 8, 10, 5), 2 * 8 * 10 * 7 * 9 * 5),
        (nn.Conv(7, (3, 3), strides=2), (1, 8, 10, 5), 4 * 5 * 7 * 9 * 5),
        (nn.Conv(6, (5, 5), feature_group_count=6), (1, 8, 8, 6), 8 * 8 * 6 * 25),
        (nn.Conv(4, (3, 3, 3)), (1, 5, 8, 8, 2), 5 * 8 * 8 * 4 * 27 * 2),
        (nn.ConvTranspose(3, (2, 2), strides=(2, 2)), (1, 4, 4, 5), 8 * 8 * 3 * 5),  # each output sees one input
        (nn.Dense(11), (3, 4, 6), 3 * 4 * 11 * 6),
    ],
)
def test_layers(layer, shape, expected):
    params = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x), image(*shape))
    assert multiply_adds(layer.apply, params, image(*shape)) == expected


def test_loops_and_calls_count_every_turn():
    def repeated(x):
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.dot)(carry, carry), None), x, length=5)[0]

    assert multiply_adds(repeated, image(4, 4)) == 5 * 4**3


def test_element_wise_work_does_not_count():
    assert multiply_adds(lambda x: jax.nn.gelu(x * 2 + 1).sum(), image(8, 8)) == 0
