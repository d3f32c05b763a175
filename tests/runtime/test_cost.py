"""Multiply-adds against counts by hand, against XLA's and against those of VisCy's modules."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vsjax.models.registry import build_model
from vsjax.runtime.cost import multiply_adds


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


def test_what_no_result_needs_does_not_count():
    """The 2.5D U-Net's blocks hold projections that most of them do not use; the compiler drops them."""

    @jax.jit
    def two_products(x, y):
        return x @ y, y @ y

    def wasteful(x, y):
        _ = y @ y
        return two_products(x, y)[0]

    assert multiply_adds(wasteful, image(3, 5), image(5, 5)) == 3 * 5 * 5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv(7, (3, 3), padding="VALID", use_bias=False),
        nn.Conv(8, (3, 5), strides=2, padding="VALID", feature_group_count=4, use_bias=False),
        nn.Dense(7, use_bias=False),
    ],
)
def test_xla_counts_the_same(layer):
    """Two operations for a multiply-add. Without padding, since XLA leaves out products with it and tables do not."""
    x = image(2, 11, 13, 4)
    params = jax.eval_shape(partial(layer.init, jax.random.key(0)), x)
    operations = jax.jit(layer.apply).lower(params, x).cost_analysis()["flops"]
    assert operations == 2 * multiply_adds(layer.apply, params, x)


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "giga"),
    [
        ("unext2", {"in_stack_depth": 5, "out_channels": 2, "head_pool": True}, 32_042_729, 721.838670),
        ("unet25d", {"in_stack_depth": 5, "out_channels": 2, "residual": True}, 2_014_484, 999.183876),
        ("unet25d", {"in_stack_depth": 5, "out_channels": 1, "residual": True}, 2_014_322, 998.579896),
        ("fcmae", {"in_stack_depth": 5, "out_channels": 1}, 29_722_112, 437.483733),
        (
            "fcmae",
            {"in_stack_depth": 1, "stem_kernel_size": (1, 2, 2), "out_channels": 2, "decoder_conv_blocks": 2},
            31_160_888,
            1833.829401,
        ),
    ],
)
def test_networks_are_as_large_and_as_much_work_as_viscys(name, settings, parameters, giga):
    """VisCy's numbers, for 2048 x 2048 pixels, are those that `scripts/peer_multiply_adds.py` prints."""
    model = build_model(name, **settings, **({} if name == "unet25d" else {"depthwise": "conv"}))
    x = image(1, settings["in_stack_depth"], 2048, 2048, 1)
    variables = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert multiply_adds(partial(model.apply, train=False), variables, x) / 1e9 == pytest.approx(giga, abs=1e-6)
