"""A batch in parts gives the gradient of the whole; recomputed blocks give that of kept ones."""

import jax
import numpy as np
import pytest

from configs.common import base_config, channel_role
from vsjax.tasks.registry import make_task, resolve


def make_batch(patch, samples=8):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(samples, *patch, 1)).astype(np.float32)
    target = 2 * source + rng.normal(size=source.shape).astype(np.float32)
    batch = {"source": source, "target": target}
    ones = np.ones((samples, 1), np.float32)
    return batch | {f"{r}_{n}": v * ones for r in ("source", "target") for n, v in (("location", 0), ("scale", 1))}


def small_config(task="regression"):
    config = base_config("fcmae", task, dims=(8, 16, 32, 64), encoder_blocks=(1, 1, 1, 1), depthwise="conv")
    config.roles.target = channel_role("nuclei")
    config.data.update(patch=(5, 32, 32), batch_size=8)
    config.task.loss.scales = 2
    config.optim.update(schedule="constant", warmup_steps=0, learning_rate=1e-3)
    return config


def step_once(config):
    """Parameters, moments of the optimiser (the first is a tenth of the gradient) and metrics after one step."""
    task = make_task(resolve(config))
    batch = make_batch(config.data.patch)
    state = jax.jit(task.init)(jax.random.key(0), batch)
    state, metrics = jax.jit(task.step)(state, batch, jax.random.key(0))
    return state.variables["params"], state.optimizer, metrics


def assert_close(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-12)


@pytest.fixture(scope="module")
def whole():
    return step_once(small_config())


@pytest.mark.parametrize("accumulate", [2, 8])
def test_parts_give_the_gradient_of_the_whole(whole, accumulate):
    config = small_config()
    config.train.accumulate = accumulate
    _, optimizer, metrics = step_once(config)
    for name, value in whole[2].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    assert_close(optimizer[0].mu, whole[1][0].mu, 1e-5)


def test_parts_are_not_the_whole_where_they_are_not_equal(whole):
    """The test above can fail: half the batch has another gradient."""
    task = make_task(resolve(small_config()))
    batch = {name: value[:4] for name, value in make_batch((5, 32, 32)).items()}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    _, metrics = jax.jit(task.step)(state, batch, jax.random.key(0))
    assert abs(float(metrics["gradient_norm"]) / float(whole[2]["gradient_norm"]) - 1) > 1e-3


def test_recomputed_blocks_change_nothing_but_rounding(whole):
    config = small_config()
    config.model.remat = True
    params, optimizer, metrics = step_once(config)
    assert jax.tree.structure(params) == jax.tree.structure(whole[0])
    np.testing.assert_allclose(metrics["loss"], whole[2]["loss"], rtol=1e-6)
    assert_close(optimizer[0].mu, whole[1][0].mu, 1e-5)


def test_recomputed_blocks_keep_less():
    """Bytes that the forward pass keeps for the gradient."""
    kept = {}
    for remat in (False, True):
        config = small_config()
        config.model.remat = remat
        model = make_task(resolve(config)).model
        source = jax.ShapeDtypeStruct((8, 5, 32, 32, 1), np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), source)

        def pullback(variables, source, model=model):
            return jax.vjp(lambda v: model.apply(v, source), variables)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pullback, variables, source))
        kept[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert kept[True] < 0.5 * kept[False], kept
