"""Checkpoints: what is saved comes back, and what is not whole is refused in one line."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from vsjax.errors import UserError
from vsjax.runtime.checkpoint import CheckpointStore, load_checkpoint, save_variables
from vsjax.runtime.description import Description, Progress
from vsjax.tasks.state import TrainState

CHANNELS = {"source": {"channels": ["BF"], "normalization": {"scope": "fov", "statistic": "mean_std"}}}
CONFIG = {"model": {"name": "unext2"}, "task": {"name": "regression"}}


def make_state(seed, shape=(3, 2), average=True):
    rng = np.random.default_rng(seed)
    params = {"a": jnp.asarray(rng.normal(size=shape), jnp.float32), "b": {"c": jnp.asarray(rng.normal(size=4))}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    variables = {"params": params, "batch_stats": {"mean": jnp.ones(2) * seed}}
    average = {"params": jax.tree.map(jnp.square, params)} if average else {}
    return TrainState(jnp.int32(1), variables, average, opt_state, auxiliary={"discriminator": {"kernel": params["a"]}})


def abstract(state):
    sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def describe(step):
    return Description(step=step, config=CONFIG, channels=CHANNELS, progress=Progress(best=0.5))


def saved_run(path, **kwargs):
    state = make_state(1, **kwargs)
    store = CheckpointStore(path)
    store.save_best(make_state(2, **kwargs), describe(10))
    store.save_last(state, describe(20))
    store.wait()
    return store, state


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("average", [True, False])
def test_restart_gets_every_number_back(tmp_path, average):
    store, state = saved_run(tmp_path, average=average)
    store.close()
    store = CheckpointStore(tmp_path)  # another process knows only the files
    restored, description = store.restore_last(20, abstract(state)), store.describe_last(20)
    store.close()
    assert_equal(restored.variables, state.variables)
    assert_equal(restored.average, state.average)
    assert_equal(restored.optimizer, state.optimizer)
    assert_equal(restored.auxiliary, state.auxiliary)
    assert description == describe(20)


def test_prediction_gets_the_average(tmp_path, caplog):
    store, state = saved_run(tmp_path)
    store.close()
    caplog.clear()
    last, best = load_checkpoint(tmp_path, "last"), load_checkpoint(tmp_path)
    assert_equal(last.variables["params"], state.average["params"])
    assert_equal(last.variables["batch_stats"], state.variables["batch_stats"])
    assert_equal(best.variables["params"], make_state(2).average["params"])
    assert best.description == describe(10)
    assert best.description.channels_of("source") == ("BF",)
    assert not (tmp_path / "checkpoints" / "best" / "10" / "auxiliary").exists()
    assert caplog.messages == []  # Orbax has nothing to warn of


def test_without_validation_the_last_is_taken(tmp_path):
    store, state = saved_run(tmp_path, average=False)
    store.close()
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    assert_equal(load_checkpoint(tmp_path).variables, state.variables)


def test_converted_weights_are_a_checkpoint(tmp_path):
    variables = make_state(3).variables
    save_variables(tmp_path / "w", variables, Description(config=CONFIG))
    loaded = load_checkpoint(tmp_path / "w")
    assert_equal(loaded.variables, variables)
    assert loaded.description.config == CONFIG


def test_another_model_is_refused(tmp_path):
    store, _ = saved_run(tmp_path)
    with pytest.raises(UserError, match=r"another model or optimiser \('params/a' has shape \(3, 2\)"):
        store.restore_last(20, abstract(make_state(1, shape=(5, 2))))
    with pytest.raises(UserError, match="another model or optimiser"):
        store.restore_last(20, abstract(make_state(1)).replace(optimizer={"mu": abstract(make_state(1)).average}))
    store.close()


@pytest.mark.parametrize(
    "part", ["description", "variables", "variables/_METADATA", "variables/manifest.ocdbt", "average"]
)
def test_a_half_written_checkpoint_is_refused(tmp_path, part):
    store, _ = saved_run(tmp_path)
    store.close()
    broken = tmp_path / "checkpoints" / "last" / "20" / part
    if part == "average":  # its folder stays, what it holds is gone
        for child in broken.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    else:
        shutil.rmtree(broken) if broken.is_dir() else broken.unlink()
    with pytest.raises(UserError, match="half written") as error:
        load_checkpoint(tmp_path, "last")
    assert "\n" not in str(error.value)


def test_cut_data_files_are_refused(tmp_path):
    store, _ = saved_run(tmp_path)
    store.close()
    for path in (tmp_path / "checkpoints" / "last" / "20" / "variables" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="half written"):
        load_checkpoint(tmp_path, "last")


def test_a_step_being_written_does_not_count(tmp_path):
    store, _ = saved_run(tmp_path)
    store.close()
    steps = tmp_path / "checkpoints" / "last"
    shutil.copytree(steps / "20", steps / "30.orbax-checkpoint-tmp")
    assert load_checkpoint(tmp_path, "last").description.step == 20
    assert CheckpointStore(tmp_path).latest_step() == 20


@pytest.mark.parametrize("which", [None, "best", "last", "newest"])
def test_no_checkpoint_is_one_line(tmp_path, which):
    with pytest.raises(UserError, match=r"no whole checkpoint|does not exist; choose one of best, last"):
        load_checkpoint(tmp_path, which)
