"""Palette's denoiser: size, layers against NumPy, class embedding, slices, and what cannot work.

The authors' own numbers are in `tests/interop/test_palette_weights.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.models.palette import Condition, ResidualLayer, SelfAttention, attend, noise_level_embedding
from vsjax.models.registry import build_model

TINY = {"inner_channels": 8, "channel_mults": (1,), "res_blocks": 1, "head_channels": 4}
PLANE = (4, 6)


def arrays(model, batch, seed=0, plane=PLANE):
    """Random arguments of a call."""
    rng = np.random.default_rng(seed)
    x, noisy, _, *label = model.example(plane)
    images = [jnp.asarray(rng.normal(size=(batch, *shape.shape[1:])), jnp.float32) for shape in (x, noisy)]
    labels = [jnp.asarray(rng.integers(0, model.classes, batch), jnp.int32) for _ in label]
    return *images, jnp.asarray(rng.uniform(0.1, 0.9, batch), jnp.float32), *labels


@partial(jax.jit, static_argnums=0)
def applied(model, variables, *inputs):
    return model.apply(variables, *inputs)


def random_weights(module, *inputs, seed=0):
    """Variables in which no tensor is zero."""
    shapes = jax.eval_shape(lambda key: module.init(key, *inputs), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1]))), jnp.float32)

    return jax.tree.map(draw, shapes)


# Counted in the authors' code (golden/README.md): image and noisy target together have in + out channels.
@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"in_channels": 3, "out_channels": 5}, 62_643_653),
        ({"in_channels": 3, "out_channels": 5, "attention_factors": (16,)}, 62_643_653),
        ({}, 62_637_889),
        ({"in_channels": 13, "out_channels": 3}, 62_647_107),
    ],
)
def test_parameter_counts_of_the_authors_networks(settings, parameters):
    model = build_model("palette", **settings)
    variables = jax.eval_shape(model.init, jax.random.key(0), *model.example(model.divisor[1:]))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters


def group_normalised(x, groups, weights):
    """Each group of channels over the whole plane, by the formula, in float64."""
    split = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    centred = split - split.mean(axis=(1, 3), keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(axis=(1, 3), keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * weights["scale"] + weights["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def convolved(x, weights):
    kernel = weights["kernel"]
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), *((side // 2, side // 2),) * 2, (0, 0)))
    rows, columns = x.shape[1:3]
    windows = [padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(side) for j in range(side)]
    return sum(windows) + weights["bias"]


@pytest.mark.parametrize("kind", ["same", "halve", "double"])
def test_a_residual_layer_is_the_formula(kind):
    """GroupNorm, FiLM between the convolutions, and the plane halved by means or doubled by repetition."""
    rng = np.random.default_rng(1)
    x, condition = rng.normal(2, 1, (2, 4, 6, 8)), rng.normal(size=(2, 5))
    layer = ResidualLayer(16, kind, dropout=0.5)
    variables = random_weights(layer, jnp.asarray(x), jnp.asarray(condition), False)
    ours = jax.jit(lambda v, *a: layer.apply(v, *a, False))(variables, x, condition)
    w = jax.tree.map(np.float64, variables["params"])
    h = silu(group_normalised(x, 8, w["norm_0"]))
    if kind == "halve":
        h, x = (a.reshape(2, 2, 2, 3, 2, 8).mean(axis=(2, 4)) for a in (h, x))
    if kind == "double":
        h, x = (a.repeat(2, axis=1).repeat(2, axis=2) for a in (h, x))
    h = convolved(h, w["conv_0"])
    film = (silu(condition) @ w["film"]["kernel"] + w["film"]["bias"])[:, None, None]
    h = silu(group_normalised(h, 16, w["norm_1"]) * (1 + film[..., :16]) + film[..., 16:])
    expected = convolved(h, w["conv_1"]) + convolved(x, w["shortcut"])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_attention_is_the_formula():
    """Head by head, its queries, keys and values side by side."""
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 8)).astype(np.float32)
    module = SelfAttention(heads=2)
    variables = random_weights(module, jnp.asarray(x))
    w = jax.tree.map(np.float64, variables["params"])
    tokens = group_normalised(x, 8, w["norm"]).reshape(2, 12, 8)
    qkv = (tokens @ w["qkv"]["kernel"] + w["qkv"]["bias"]).reshape(2, 12, 2, 3, 4)
    scores = np.einsum("bthd,bshd->bhts", qkv[..., 0, :], qkv[..., 1, :]) / np.sqrt(4)
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    seen = np.einsum("bhts,bshd->bthd", shares, qkv[..., 2, :]).reshape(2, 12, 8)
    expected = x + (seen @ w["proj"]["kernel"] + w["proj"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(applied(module, variables, x), expected, rtol=1e-4, atol=1e-5)


def test_attention_in_parts_is_attention_at_once():
    """Its gradient too."""
    query, key, value = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(3).normal(size=(3, 2, 12, 2, 4)))

    def call(query, key, value, most):
        return jnp.sin(attend(query, key, value, most)).sum()

    gradient = jax.jit(jax.value_and_grad(call, (0, 1, 2)), static_argnums=3)
    at_once, in_parts = (gradient(query, key, value, most) for most in (10**9, 2 * 2 * 12 * 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), in_parts, at_once)
    assert "scan" in str(jax.make_jaxpr(lambda q: attend(q, key, value, 144))(query))


def test_the_embedding_of_a_noise_level():
    gamma = np.array([0.0, 0.25, 1.0])
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(np.outer(gamma, frequencies)), np.sin(np.outer(gamma, frequencies))], axis=1)
    np.testing.assert_allclose(noise_level_embedding(jnp.asarray(gamma), 8), expected, atol=1e-6)
    odd = noise_level_embedding(jnp.asarray(gamma), 9)
    np.testing.assert_allclose(odd, np.pad(expected, ((0, 0), (0, 1))), atol=1e-6)


def test_no_class_is_the_last_one_and_classes_matter():
    model = build_model("palette", classes=3, **TINY)
    x, noisy, gamma, _ = arrays(model, batch=2)
    variables = random_weights(model, x, noisy, gamma)
    none = applied(model, variables, x, noisy, gamma)
    last = applied(model, variables, x, noisy, gamma, jnp.array([3, 3]))
    np.testing.assert_array_equal(none, last)
    mixed = applied(model, variables, x, noisy, gamma, jnp.array([3, 1]))
    np.testing.assert_allclose(mixed[0], none[0], rtol=1e-5, atol=1e-6)
    assert np.abs(mixed[1] - none[1]).max() > 1e-3
    # A class whose row is zero is a network without classes: the embedding is added, and nothing else is done with it.
    silent = jax.tree.map(lambda leaf: leaf, variables)
    silent["params"]["condition"]["label"]["embedding"] *= 0
    plain = {name: value for name, value in silent["params"]["condition"].items() if name != "label"}
    unlabelled = {"params": {**silent["params"], "condition": plain}}
    without = applied(build_model("palette", **TINY), unlabelled, x, noisy, gamma)
    np.testing.assert_array_equal(applied(model, silent, x, noisy, gamma, jnp.array([0, 2])), without)


def test_slices_are_channels():
    """Two slices of two channels are four channels of one, in the order channel first, then slice."""
    deep = build_model("palette", in_channels=2, out_channels=2, in_stack_depth=3, out_stack_depth=1, **TINY)
    flat = build_model("palette", in_channels=6, out_channels=2, **TINY)
    x, noisy, gamma = arrays(deep, batch=2)
    variables = random_weights(deep, x, noisy, gamma)
    folded = jnp.stack([x[:, z, ..., c] for c in range(2) for z in range(3)], axis=-1)[:, None]
    np.testing.assert_array_equal(
        applied(deep, variables, x, noisy, gamma), applied(flat, variables, folded, noisy, gamma)
    )


def test_a_stack_comes_out_as_it_went_in():
    """With the last convolution passing the first features through: output channel first, then slice."""
    model = build_model("palette", out_channels=2, in_stack_depth=2, **TINY)
    x, noisy, gamma = arrays(model, batch=1)
    variables = random_weights(model, x, noisy, gamma)
    head = variables["params"]["out"]
    head["kernel"], head["bias"] = jnp.zeros_like(head["kernel"]), jnp.arange(4.0)
    y = applied(model, variables, x, noisy, gamma)
    assert y.shape == noisy.shape
    for channel in range(2):
        for z in range(2):
            np.testing.assert_array_equal(y[:, z, ..., channel], 2 * channel + z)


def test_layers_begin_as_their_shortcuts():
    """So that a network begins by predicting zero, its last convolution being zero too."""
    x, condition = (
        jnp.asarray(np.random.default_rng(4).normal(size=size), jnp.float32) for size in ((1, 2, 2, 4), (1, 3))
    )
    residual, attention = ResidualLayer(4, "same", dropout=0.0), SelfAttention(heads=1)
    begun = jax.jit(lambda key: residual.init_with_output(key, x, condition, False)[0])(jax.random.key(0))
    np.testing.assert_array_equal(begun, x)
    np.testing.assert_array_equal(jax.jit(attention.init_with_output)(jax.random.key(0), x)[0], x)


def test_dropout_is_for_training():
    model = build_model("palette", **TINY)
    inputs = arrays(model, batch=1)
    variables = random_weights(model, *inputs)
    train = jax.jit(lambda key: model.apply(variables, *inputs, train=True, rngs={"dropout": key}))
    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3


def test_bfloat16_is_close_and_keeps_the_noise_level():
    """Noise levels that bfloat16 does not tell apart are told apart."""
    wide, narrow = (build_model("palette", dtype, **TINY) for dtype in ("float32", "bfloat16"))
    inputs = arrays(wide, batch=2)
    variables = random_weights(wide, *inputs)
    exact, close = (applied(model, variables, *inputs) for model in (wide, narrow))
    assert close.dtype == jnp.float32
    assert np.abs(close - exact).max() < 0.05 * np.abs(exact).max()
    levels = [jnp.full(2, level, jnp.float32) for level in (0.9999, 0.9998)]
    conditions = [Condition(8, 0).apply({"params": variables["params"]["condition"]}, level, None) for level in levels]
    assert np.abs(conditions[0] - conditions[1]).min() > 0
    assert jnp.bfloat16(0.9999) == jnp.bfloat16(0.9998)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"in_stack_depth": 3, "out_stack_depth": 5}, r"model.out_stack_depth = 5 must be at most .* = 3"),
        ({"inner_channels": 8192, "head_channels": 0}, r"layers of more than 8192 features"),
        ({"inner_channels": 48}, r"model.head_channels = 32 does not divide the 48 features"),
        ({"channel_mults": ()}, r"model.channel_mults"),
        ({"attention_factors": (0,)}, r"model.attention_factors.0: is 0"),
    ],
)
def test_settings_that_cannot_work(settings, says):
    with pytest.raises(UserError, match=says):
        build_model("palette", **settings)
