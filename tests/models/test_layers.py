"""The pieces the networks share, against NumPy, SciPy and explicit loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from vsjax.models.conv_block import ConvBlock, double_plane, halve_plane
from vsjax.models.convnext import DropPath, LayerNorm, linear_drop_path_rates
from vsjax.models.registry import build_model
from vsjax.models.shuffle import blur_after_shuffle, icnr, pixel_shuffle
from vsjax.models.unext2 import fold_depth, instance_norm, unfold_depth

RNG = np.random.default_rng(0)


def test_pixel_shuffle_moves_channels_as_pytorch_does():
    x = RNG.normal(size=(2, 3, 4, 18)).astype(np.float32)
    y = pixel_shuffle(jnp.asarray(x), 3)
    for c in range(2):
        for i in range(3):
            for j in range(3):
                np.testing.assert_array_equal(y[:, i::3, j::3, c], x[..., 9 * c + 3 * i + j])


def test_the_blur_averages_the_pixels_before():
    x = RNG.normal(size=(1, 8, 9, 2)).astype(np.float32)
    theirs = uniform_filter(x.astype(float), size=(1, 4, 4, 1), mode="constant", origin=(0, 1, 1, 0))
    np.testing.assert_allclose(blur_after_shuffle(jnp.asarray(x), 4), theirs, atol=1e-6)


def test_depth_folds_channel_first_and_back():
    x = RNG.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    folded = fold_depth(jnp.asarray(x))
    np.testing.assert_array_equal(folded[..., 2 * 3 + 1], x[:, 1, ..., 2])
    np.testing.assert_array_equal(unfold_depth(folded, 3), x)


def test_icnr_repeats_he_normal_kernels():
    kernel = np.asarray(icnr(2)(jax.random.key(0), (3, 3, 64, 128)))
    np.testing.assert_array_equal(kernel[..., ::4], kernel[..., 3::4])
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


def test_planes_are_doubled_by_linear_interpolation():
    x = RNG.normal(size=(1, 1, 5, 7, 2)).astype(np.float32)
    y = double_plane(jnp.asarray(x))
    at = [(np.arange(2 * n) + 0.5) / 2 - 0.5 for n in (5, 7)]
    rows = np.apply_along_axis(lambda line: np.interp(at[0], np.arange(5), line), 2, x)
    theirs = np.apply_along_axis(lambda line: np.interp(at[1], np.arange(7), line), 3, rows)
    np.testing.assert_allclose(y, theirs, atol=1e-6)


def test_planes_are_halved_by_averaging():
    x = RNG.normal(size=(2, 3, 4, 6, 2)).astype(np.float32)
    theirs = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    np.testing.assert_allclose(halve_plane(jnp.asarray(x)), theirs, atol=1e-6)


def test_layer_norm_of_large_offsets():
    """A mean 10,000 times the spread: the difference of squares in float32 would be noise."""
    x = (1e4 + RNG.normal(size=(2, 3, 3, 64))).astype(np.float32)
    y = LayerNorm().apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, jnp.asarray(x))
    wide = x.astype(np.float64)
    theirs = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y, theirs, atol=2e-3)


def test_instance_norm():
    x = (5 + 3 * RNG.normal(size=(2, 3, 8, 8, 4))).astype(np.float32)
    wide = x.astype(np.float64)
    axes = (1, 2, 3)
    theirs = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(jnp.asarray(x)), theirs, atol=1e-5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = jnp.ones((20_000, 2, 3))
    y = np.asarray(DropPath(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (y == y[:, :1, :1]).all()
    assert y.mean() == pytest.approx(1, abs=0.02)


def test_drop_path_rates_grow_along_the_whole_encoder():
    rates = linear_drop_path_rates((2, 1, 2), 0.4)
    assert [len(stage) for stage in rates] == [2, 1, 2]
    np.testing.assert_allclose(np.concatenate(rates), [0, 0.1, 0.2, 0.3, 0.4])


def test_the_shortcut_puts_new_channels_first():
    """Where channels are added, the zeros come before the input's, as in VisCy."""
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 2)), jnp.float32)
    block = ConvBlock(5, (3, 3), layers=1, residual=True, activate=False, normalise=False)
    variables = block.init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(jnp.zeros_like, variables)
    y = block.apply(variables, x, train=False)
    np.testing.assert_array_equal(y[..., :3], 0)
    np.testing.assert_array_equal(y[..., 3:], x)


@pytest.mark.parametrize("name", ["unet25d", "unet2d", "fnet3d"])
def test_batch_norm_learns_its_averages_in_training_only(name, random_variables):
    small = {"fnet3d": {"depth": 1, "mult_chan": 4, "in_stack_depth": 2}}
    model = build_model(name, **small.get(name, {"num_blocks": 1, "num_filters": (4, 8)}))
    x = 3 + jax.random.normal(jax.random.key(0), (2, model.in_stack_depth, 16, 16, 1))
    variables = random_variables(model, x)
    assert set(variables) == {"params", "batch_stats"}
    step = jax.jit(lambda v: model.apply(v, x, True, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"])[1])
    after = step(variables)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], after["batch_stats"])
    assert all(jax.tree.leaves(changed))
    _, after = model.apply(variables, x, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], after["batch_stats"])


def test_batch_norm_average_moves_by_a_tenth():
    """PyTorch's momentum 0.1."""
    block = ConvBlock(1, (1, 1), layers=1, activate=False)
    x = jnp.full((1, 4, 4, 1), 5.0)
    variables = block.init(jax.random.key(0), x, train=False)
    variables["params"]["conv_0"] = {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}
    _, after = block.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(after["batch_stats"]["norm_0"]["mean"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(after["batch_stats"]["norm_0"]["var"], 0.9, rtol=1e-6)
