"""From the same weights on the same batch, training follows PyTorch's: forward, loss, gradient and update in one."""

import json
from pathlib import Path

import flax
import jax
import numpy as np
import pytest
from seeded_weights import seeded_batch, seeded_state

from configs.common import base_config, channel_role
from vsjax.interop.viscy import variables_from_state
from vsjax.tasks.registry import make_task, resolve

THEIRS = json.loads((Path(__file__).parent / "files" / "training_parity.json").read_text())


def make_config():
    """PyTorch's run as a config; augmentation is off."""
    decided = ("in_channels", "out_channels", "in_stack_depth")  # by the data
    config = base_config("unext2", **{name: value for name, value in THEIRS["model"].items() if name not in decided})
    config.roles.source, config.roles.target = channel_role("source"), channel_role("first", "second")
    config.data.patch = tuple(THEIRS["batch"][1:])
    config.task.loss.update({name.removesuffix("_alpha"): weight for name, weight in THEIRS["loss"].items()})
    config.optim.update(schedule="constant", warmup_steps=0, weight_decay=THEIRS["optimizer"]["weight_decay"])
    config.optim.learning_rate = THEIRS["optimizer"]["lr"]
    config.train.steps = THEIRS["steps"]
    return config


def make_batch():
    """The batch, channels last, with a normalisation that changes nothing."""
    batch = {}
    for role, array in zip(("source", "target"), seeded_batch(THEIRS["batch"], THEIRS["seed"]), strict=True):
        batch[role] = np.moveaxis(array, 1, -1)
        samples_channels = (array.shape[0], array.shape[1])
        batch[f"{role}_location"] = np.zeros(samples_channels, np.float32)
        batch[f"{role}_scale"] = np.ones(samples_channels, np.float32)
    return batch


@pytest.fixture(scope="module")
def weights():
    """PyTorch's weights before the first step."""
    state = seeded_state(THEIRS["shapes"], THEIRS["seed"])
    total = sum(value.sum(dtype=np.float64) for value in state.values())
    assert total == pytest.approx(THEIRS["sum_of_weights"], rel=1e-9), "NumPy draws other numbers; make the file anew"
    return state


@pytest.mark.slow
def test_eight_steps_follow_pytorch(weights):
    task, batch = make_task(resolve(make_config())), make_batch()
    state = task.init(jax.random.key(0), batch)
    loaded = variables_from_state("unext2", weights, THEIRS["model"])
    assert len(flax.traverse_util.flatten_dict(loaded)) == len(THEIRS["shapes"])
    state = state.replace(variables=jax.tree.map(jax.numpy.asarray, loaded))
    step = jax.jit(task.step, donate_argnums=0)
    losses = []
    for index in range(THEIRS["steps"] + 1):  # the loss after the last step is the one that a further step begins with
        state, metrics = step(state, batch, jax.random.key(index))
        losses.append(float(metrics["loss"]))
    differences = np.abs(np.array(losses) / THEIRS["losses"] - 1)
    print("relative differences from PyTorch, before each step and after the last:", differences)
    # 1e-3 is asked for, 3e-5 measured; a beta2 of .99 makes 6e-4, an epsilon of 1e-6 4e-3. The decay is too small to be
    # seen in eight steps: tests/tasks/test_optimizer.py checks it by hand.
    np.testing.assert_array_less(differences, 3e-4)
    assert differences[0] < 1e-5  # before anything is learned, rounding only
