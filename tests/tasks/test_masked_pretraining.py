"""Masked pre-training: what is hidden stays hidden, the loss is that of the hidden pixels, no target is needed."""

import jax
import numpy as np
import pytest

from configs.common import base_config
from vsjax.errors import UserError
from vsjax.tasks.registry import make_task, resolve

PATCH = (5, 64, 64)
KEY = jax.random.key(0)


def pretraining_config():
    config = base_config(
        "fcmae", "masked_pretraining", dims=(8, 16, 32, 64), encoder_blocks=(1, 1, 1, 1), depthwise="conv"
    )
    config.data.patch = PATCH
    config.roles.source.normalization.scope = "none"
    config.optim.update(schedule="constant", warmup_steps=0, learning_rate=1e-2)
    return config


def make_batch(source):
    ones = np.ones((len(source), 1), np.float32)
    return {"source": source, "source_location": 0 * ones, "source_scale": ones}


def images(functions, state, batch):
    """Source, masked and restored, as validation sees them."""
    shown = functions["sample"](state, batch, KEY)
    return [np.asarray(shown[name]) for name in ("source", "masked", "restored")]


@pytest.fixture(scope="module")
def trained():
    """The task's compiled functions, its state after some steps on one batch, that batch, and the losses."""
    task = make_task(resolve(pretraining_config()))
    batch = make_batch(np.random.default_rng(0).normal(size=(3, *PATCH, 1)).astype(np.float32) + 2)
    state = jax.jit(task.init)(jax.random.key(0), batch)
    step = jax.jit(task.step)
    losses = []
    for index in range(12):
        state, metrics = step(state, batch, jax.random.key(index))
        losses.append(float(metrics["loss"]))
    functions = {"step": step, "sample": jax.jit(task.sample), "evaluate": jax.jit(task.evaluate)}
    return functions, state, batch, losses


def test_it_learns_without_a_target(trained):
    losses = trained[3]
    assert losses[0] > 2
    assert losses[-1] < 0.8 * losses[0]


def test_loss_is_the_mean_over_hidden_pixels(trained):
    functions, state, batch, _ = trained
    source, masked, restored = (image.astype(np.float64) for image in images(functions, state, batch))
    found = np.asarray(functions["evaluate"](state, batch, KEY)["loss"])
    hidden = (masked != source).any(axis=(1, 4))  # in some slice: the darkest pixel is as black as a hidden one
    for index in range(3):
        assert hidden[index].mean() == 0.5
        np.testing.assert_allclose(found[index], np.mean((restored - source)[index][:, hidden[index]] ** 2), rtol=1e-5)


def test_hidden_pixels_do_not_reach_the_reconstruction(trained):
    functions, state, batch, _ = trained
    source, masked, restored = images(functions, state, batch)
    noise = np.random.default_rng(1).normal(size=source.shape).astype(np.float32) - 5
    hidden = (masked != source).any(axis=(1, 4), keepdims=True)
    other = make_batch(np.where(hidden, noise, source))
    np.testing.assert_allclose(images(functions, state, other)[2], restored, atol=1e-5)
    seen = make_batch(np.where(hidden, source, noise))  # the test can fail: what is seen does reach it
    assert np.abs(images(functions, state, seen)[2] - restored).max() > 0.1


def test_which_cells_are_hidden_follows_from_the_key_and_differs_between_samples(trained):
    functions, state, batch, _ = trained
    step = functions["step"]
    losses = [float(step(state, batch, jax.random.key(key))[1]["loss"]) for key in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    same = make_batch(np.repeat(batch["source"][:1], 3, axis=0))
    masked = images(functions, state, same)[1]
    assert not np.array_equal(masked[0], masked[1]) or not np.array_equal(masked[0], masked[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": base_config("unext2").model}, r'cannot be masked.*needs "fcmae"'),
        ({"task": {"mask_ratio": 1.0}}, r"config\.task\.mask_ratio: is 1\.0; it must be less than 1"),
        ({"task": {"name": "regression"}}, r"config\.roles\.target\.channels is empty.*masked_pretraining"),
        ({"train": {"best": "pearson"}}, r"best='pearson' is not a metric of masked_pretraining; choose one of loss"),
    ],
)
def test_configs_that_cannot_work_are_refused(changes, message):
    config = pretraining_config()
    with config.unlocked():
        config.update(changes)
        if isinstance(changes.get("model"), type(config.model)):
            config.model = changes["model"]
    with pytest.raises(UserError, match=message):
        make_task(resolve(config))
