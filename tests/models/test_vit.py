"""Vision transformers: positions on other grids, a block against NumPy, and where tokens lie.

The authors' own numbers are in `tests/interop/test_vit_weights.py`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.models.registry import build_model
from vsjax.models.vit import TransformerBlock, resample_positions

TINY = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "reg_tokens": 1}


def cubic_matrix(old, new):
    """`[new, old]`: Keys' cubic kernel with a = -1/2 around each new centre, as wide as the coarser grid's step, its
    weights within the image made to sum to one."""
    step = old / new
    width = max(step, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * step - 0.5
    t = np.abs(centres - np.arange(old)) / width
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("grid", [(6, 5), (3, 2), (4, 9)])
def test_positions_are_resampled_by_the_cubic_kernel(grid):
    places = np.random.default_rng(0).normal(size=(16, 3))
    expected = np.einsum("ya,xb,abd->yxd", *(cubic_matrix(4, size) for size in grid), places.reshape(4, 4, 3))
    np.testing.assert_allclose(resample_positions(jnp.asarray(places), 4, grid), expected, atol=1e-5)


def normalised(x, weights):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * weights["scale"] + weights["bias"]


def dense(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def test_a_block_is_the_formula():
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    block = TransformerBlock(2, 3, True, 0.1)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    out, keys = jax.jit(block.apply)(variables, x)
    w = jax.tree.map(np.float64, variables["params"])
    query, key, value = np.split(dense(normalised(x, w["norm1"]), w["qkv"]), 3, axis=-1)
    np.testing.assert_allclose(keys, key, rtol=1e-4, atol=1e-4)
    query, key, value = (a.reshape(2, 5, 2, 4) for a in (query, key, value))
    scores = np.einsum("bthd,bshd->bhts", query, key) / 2
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    seen = np.einsum("bhts,bshd->bthd", shares, value).reshape(2, 5, 8)
    y = x + dense(seen, w["proj"]) * w["ls1"]["gamma"]
    hidden = dense(normalised(y, w["norm2"]), w["fc1"])
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    y = y + dense(hidden, w["fc2"]) * w["ls2"]["gamma"]
    np.testing.assert_allclose(out, y, rtol=1e-3, atol=1e-3)


def test_features_lie_where_their_patches_do(random_variables):
    """With one block a key knows its own patch alone."""
    model = build_model("vit", **TINY)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 1, 12, 20, 3)), jnp.float32)
    variables = random_variables(model, x)
    features = jax.jit(lambda x: model.apply(variables, x, method="features"))
    changed = np.abs(features(x.at[0, 0, 9, 6].add(1.0)) - features(x)).max(axis=-1)[0]
    assert changed.shape == (3, 5)
    np.testing.assert_array_equal(np.argwhere(changed > 0), [[9 // 4, 6 // 4]])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"in_channels": 1}, r"model.in_channels = 1: .*set 3"),
        ({"num_heads": 5}, r"model.embed_dim = 384 is not divisible by model.num_heads = 5"),
        ({"img_size": 225}, r"model.img_size = 225 is not divisible by model.patch_size = 8"),
    ],
)
def test_settings_that_cannot_work(settings, says):
    with pytest.raises(UserError, match=says):
        build_model("vit", **settings)
