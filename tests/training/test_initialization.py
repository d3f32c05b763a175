"""Beginning with the weights of another run: which are taken, what is said of the others, what stays frozen."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.common import base_config, channel_role
from vsjax.errors import UserError
from vsjax.runtime.checkpoint import save_variables
from vsjax.runtime.description import Description
from vsjax.tasks.registry import make_task, resolve
from vsjax.tasks.state import TrainState
from vsjax.training.initialization import apply_initial, read_initial


def network(value, stem=(5, 4), head=2):
    """Variables of an imaginary network, all of one value."""
    layers = {
        "stem": {"conv": {"kernel": np.full(stem, value, np.float32), "bias": np.full(4, value, np.float32)}},
        "encoder_0": {"block_0": {"kernel": np.full((4, 4), value, np.float32)}},
        "decoder": {"stage_0": {"kernel": np.full((4, 4), value, np.float32)}},
        "head": {"conv": {"kernel": np.full((4, head), value, np.float32)}},
    }
    return {"params": layers, "batch_stats": {"encoder_0": {"mean": np.full(4, value, np.float32)}}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pretrained"
    save_variables(
        path, network(7.0), Description(config={"model": {"name": "unet2d"}, "task": {"name": "regression"}})
    )
    return path


PARTS = {"encoder": ("stem", "encoder_0"), "decoder": ("decoder",), "head": ("head",)}


def init_config(checkpoint, **changes):
    return ConfigDict({"checkpoint": str(checkpoint), "which": "", "load": "all", "freeze": "", **changes})


def begin(checkpoint, variables, average=False, **changes):
    variables = jax.tree.map(jnp.asarray, variables)
    state = TrainState(jnp.int32(0), variables, {"params": variables["params"]} if average else {}, ())
    transfer = read_initial(init_config(checkpoint, **changes), variables, PARTS)
    return apply_initial(transfer, state), transfer.misfits


def taken(state):
    """Modules whose every parameter is the checkpoint's."""
    params = state.variables["params"]
    return [name for name in params if all(np.all(np.asarray(leaf) == 7) for leaf in jax.tree.leaves(params[name]))]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ("encoder", ["encoder_0", "stem"]),
        ("encoder+decoder", ["decoder", "encoder_0", "stem"]),
        ("all", ["decoder", "encoder_0", "head", "stem"]),
    ],
)
def test_the_chosen_parts_are_taken_and_no_others(checkpoint, load, expected):
    state, misfits = begin(checkpoint, network(0.0), load=load)
    assert sorted(taken(state)) == expected
    assert misfits == ()
    assert np.all(np.asarray(state.variables["batch_stats"]["encoder_0"]["mean"]) == 7)


def test_the_moving_average_begins_there_too_in_memory_of_its_own(checkpoint):
    state, _ = begin(checkpoint, network(0.0), average=True)
    assert float(state.average["params"]["stem"]["conv"]["bias"][0]) == 7
    shared = zip(jax.tree.leaves(state.average), jax.tree.leaves(state.variables["params"]), strict=True)
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in shared)  # or donation would fail


def test_every_layer_that_does_not_fit_is_named(checkpoint, caplog):
    """A deeper stem (hot start from 15 to 21 slices), a head of three stains, a block more and a block less."""
    variables = network(0.0, stem=(7, 4), head=3)
    variables["params"]["decoder"]["stage_1"] = {"kernel": np.zeros(2, np.float32)}
    del variables["params"]["encoder_0"]
    with caplog.at_level(logging.INFO):
        state, misfits = begin(checkpoint, variables)
    assert taken(state) == []
    assert np.all(np.asarray(state.variables["params"]["stem"]["conv"]["bias"]) == 7)
    assert np.all(np.asarray(state.variables["params"]["stem"]["conv"]["kernel"]) == 0)
    assert sorted(misfits) == [
        "decoder/stage_1: begins at random, not in the checkpoint (kernel)",
        "encoder_0/block_0: left out, not in this network (kernel)",
        "head/conv: begins at random, of another shape (kernel (4, 2) for (4, 3))",
        "stem/conv: begins at random, of another shape (kernel (5, 4) for (7, 4))",
    ]
    assert set(misfits) <= {record.getMessage() for record in caplog.records}
    assert "3 of 6 tensors taken" in caplog.text


@pytest.mark.parametrize(
    ("changes", "variables", "message"),
    [
        ({"load": "everything"}, network(0.0), r"config\.init\.load='everything'.*encoder, encoder\+decoder, all"),
        ({"freeze": "head"}, network(0.0), r"config\.init\.freeze='head' does not exist"),
        ({"freeze": "encoder"}, network(0.0, stem=(7, 4)), r"freeze='encoder' would keep random.*stem/conv/kernel"),
        ({"freeze": "encoder+decoder", "load": "encoder"}, network(0.0), r"random weights in params/decoder"),
        ({"checkpoint": "", "freeze": "encoder"}, network(0.0), r"would keep random weights; set config\.init\.check"),
        ({"checkpoint": "nowhere"}, network(0.0), r"nowhere.*no whole checkpoint"),
        ({"which": "first"}, network(0.0), r"first.*best, last"),
        ({}, {"params": {"in_conv": {"kernel": np.zeros(3)}}}, r"no layer of its all fits config\.model.*unet2d"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(checkpoint, changes, variables, message):
    with pytest.raises(UserError, match=message) as error:
        read_initial(init_config(**{"checkpoint": checkpoint, **changes}), variables, PARTS)
    assert "\n" not in str(error.value)


def test_frozen_parts_do_not_move_and_the_others_move_as_before():
    """Weight decay moves a parameter without a gradient as well; frozen ones stay bit for bit."""
    config = base_config("unet2d", num_filters=(2, 4), num_blocks=1)
    config.data.patch, config.roles.target = (1, 16, 16), channel_role("nuclei")
    config.task.loss.update(l1=0.0, l2=1.0, ms_dssim=0.0)
    config.optim.update(schedule="constant", warmup_steps=0, learning_rate=1e-2, weight_decay=0.5)
    volume = np.random.default_rng(0).normal(size=(2, 1, 16, 16, 1)).astype(np.float32)
    batch = {"source": volume, "target": 2 * volume}
    batch |= {f"{r}_{n}": np.full((2, 1), v, np.float32) for r in batch for n, v in (("location", 0), ("scale", 1))}
    after = {}
    for freeze in ("", "encoder"):
        config.init.freeze = freeze
        task = make_task(resolve(config))
        before = jax.jit(task.init)(jax.random.key(0), batch)
        after[freeze], metrics = jax.jit(task.step)(before, batch, jax.random.key(1))
        start = before.variables["params"]
    moved = {
        freeze: {m for m in start if not jax.tree.all(jax.tree.map(np.array_equal, s.variables["params"][m], start[m]))}
        for freeze, s in after.items()
    }
    assert moved == {"": set(start), "encoder": {"up_0", "terminal"}}
    assert metrics["gradient_norm"] > 0
    frozen, free = ({m: s.variables["params"][m] for m in ("up_0", "terminal")} for s in after.values())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), frozen, free)
    assert len(jax.tree.leaves(after["encoder"].optimizer)) < len(jax.tree.leaves(after[""].optimizer))
