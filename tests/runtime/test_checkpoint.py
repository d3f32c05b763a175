"""Checkpoints: what is saved comes back, and what is not whole is refused in one line."""

import hashlib
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from vsjax.errors import UserError
from vsjax.runtime import checkpoint
from vsjax.runtime.checkpoint import CheckpointStore, load_checkpoint, save_variables
from vsjax.runtime.description import Description, Progress
from vsjax.tasks.state import TrainState

CHANNELS = {"source": {"channels": ("BF",), "normalization": {"scope": "fov", "statistic": "mean_std"}}}
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


def data_file(step):
    """The file of the item `variables` with the arrays' bytes."""
    return max((step / "variables").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def to_link(path):
    """A link that leads nowhere."""
    path.unlink()
    path.symlink_to("elsewhere")


def to_fifo(path):
    path.unlink()
    os.mkfifo(path)


def to_folder(path):
    path.unlink()
    path.mkdir()


def change_manifest(step, change):
    """What somebody could make of it who knows how."""
    document = json.loads((step / "manifest.json").read_text())
    change(document["items"])
    text = json.dumps(document["items"], sort_keys=True)
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (step / "manifest.json").write_text(json.dumps(document))


def list_outside(items):
    """A file that is there and whole, but outside of the step."""
    files = items["variables"]["files"]
    files["../../../secret"] = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}


NESTED = "[" * 100_000 + "]" * 100_000
DAMAGES = {
    "cut": lambda step: os.truncate(data_file(step), data_file(step).stat().st_size - 20),
    "emptied": lambda step: os.truncate(data_file(step), 0),
    "removed": lambda step: data_file(step).unlink(),
    "flipped": lambda step: flip(data_file(step)),
    "folder": lambda step: to_folder(data_file(step)),
    "fifo": lambda step: to_fifo(data_file(step)),
    "link": lambda step: to_link(data_file(step)),
    "too many": lambda step: (step / "variables" / "d" / "other").write_text("x"),
    "no average": lambda step: shutil.rmtree(step / "average"),
    "no variables": lambda step: shutil.rmtree(step / "variables"),
    "no description": lambda step: shutil.rmtree(step / "description"),
    "another item": lambda step: shutil.copytree(step / "average", step / "other"),
    "item is a file": lambda step: (shutil.rmtree(step / "average"), (step / "average").write_text("x")),
    "optimizer cut": lambda step: os.truncate(step / "optimizer" / "_METADATA", 10),
    "tree nested": lambda step: (step / "variables" / "_METADATA").write_text(NESTED),
    "sharding nested": lambda step: (step / "variables" / "_sharding").write_text(NESTED),
    "description nested": lambda step: (step / "description" / "metadata").write_text(NESTED),
    "description changed": lambda step: flip(step / "description" / "metadata"),
    "no manifest": lambda step: (step / "manifest.json").unlink(),
    "manifest a fifo": lambda step: to_fifo(step / "manifest.json"),
    "manifest a folder": lambda step: to_folder(step / "manifest.json"),
    "manifest cut": lambda step: os.truncate(step / "manifest.json", 100),
    "manifest nested": lambda step: (step / "manifest.json").write_text(f'{{"items": {NESTED}}}'),
    "manifest huge": lambda step: os.truncate(step / "manifest.json", 2**40),
    "manifest empty": lambda step: (step / "manifest.json").write_text("{}"),
    "manifest changed": lambda step: (step / "manifest.json").write_text(
        (step / "manifest.json").read_text().replace("float32", "float64", 1)
    ),
    "manifest leads outside": lambda step: change_manifest(step, list_outside),
    "item leads outside": lambda step: change_manifest(step, lambda items: items.update({"../10": items["average"]})),
    "item of no name": lambda step: change_manifest(step, lambda items: items.update({"\0": items["average"]})),
    "another step": lambda step: (shutil.rmtree(step), shutil.copytree(step.with_name("15"), step)),
    "file": lambda step: (shutil.rmtree(step), step.write_text("x")),
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """`best` of step 10, `last` of steps 15 and 20, with a secret beside them."""
    path = tmp_path_factory.mktemp("run")
    (path / "secret").write_text("secret")
    store = CheckpointStore(path)
    store.save_best(make_state(2), describe(10))
    store.save_last(make_state(3), describe(15))
    store.save_last(make_state(1), describe(20))
    store.close()
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_passed_over(whole_run, tmp_path, caplog, damage):
    shutil.copytree(whole_run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "last" / "20"
    DAMAGES[damage](newest)
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "run", "last")
    assert str(error.value).startswith(str(newest))
    assert "best/10 is whole: --which best" in str(error.value)
    assert len(str(error.value)) < 600
    store = CheckpointStore(tmp_path / "run")
    assert store.latest_step() == 15
    store.close()
    assert str(newest) in caplog.messages[0]
    assert "going back to step 15" in caplog.messages[0]


def test_files_behind_links_are_read(whole_run, tmp_path):
    """As model hubs and git-annex keep them."""
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "blobs").mkdir()
    step = tmp_path / "run" / "checkpoints" / "last" / "20"
    for number, path in enumerate([path for path in step.rglob("*") if path.is_file()]):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(tmp_path / "blobs" / str(number))
    assert_equal(load_checkpoint(tmp_path / "run", "last").variables["params"], make_state(1).average["params"])
    flip(data_file(step))
    with pytest.raises(UserError, match="have changed"):
        load_checkpoint(tmp_path / "run", "last")


@pytest.mark.parametrize("damage", ["cut", "no manifest", "file"])
def test_the_run_goes_on_from_the_step_before_and_saves_the_damaged_one_again(whole_run, tmp_path, damage):
    shutil.copytree(whole_run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "last"
    DAMAGES[damage](folder / "20")
    store = CheckpointStore(tmp_path / "run")
    assert_equal(store.restore_last(store.latest_step(), abstract(make_state(3))).variables, make_state(3).variables)
    store.save_last(make_state(4), describe(20))
    store.close()
    assert_equal(load_checkpoint(tmp_path / "run", "last").variables["params"], make_state(4).average["params"])
    assert sorted(path.name for path in folder.iterdir()) == ["15", "20"]
    assert load_checkpoint(tmp_path / "run").description.step == 10


def test_what_prediction_reads_not_may_be_damaged(whole_run, tmp_path):
    """Bytes of the optimiser are not even read; a resumed run reads them."""
    shutil.copytree(whole_run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "last" / "20"
    flip(newest / "optimizer" / "_METADATA")
    assert load_checkpoint(tmp_path / "run", "last").description.step == 20
    store = CheckpointStore(tmp_path / "run")
    assert store.latest_step() == 15
    store.close()


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt"])
def test_what_nothing_reads_may_be_damaged(whole_run, tmp_path, name):
    """Orbax writes these into the step's folder after its manifest."""
    shutil.copytree(whole_run, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "last" / "20" / name
    for damage in (lambda: file.write_text(NESTED), lambda: to_fifo(file), lambda: file.unlink()):
        damage()
        assert_equal(load_checkpoint(tmp_path / "run", "last").variables["params"], make_state(1).average["params"])
        store = CheckpointStore(tmp_path / "run")
        assert store.latest_step() == 20
        assert_equal(store.restore_last(20, abstract(make_state(1))).optimizer, make_state(1).optimizer)
        store.close()


def test_where_nothing_is_whole_nothing_begins_anew(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    for step in ("15", "20"):
        DAMAGES["cut"](tmp_path / "run" / "checkpoints" / "last" / step)
    store = CheckpointStore(tmp_path / "run")
    with pytest.raises(UserError, match=r"last/20: .* no other step is whole: .* to begin anew"):
        store.latest_step()
    store.close()


def test_the_two_newest_are_kept_and_one_best(tmp_path):
    """Also what a killed run left goes, and what is ahead of the run: it comes there again."""
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save_last(make_state(step), describe(step))
        store.save_best(make_state(step), describe(step))
    store.wait()
    folder = tmp_path / "checkpoints" / "last"
    (folder / "9").mkdir()
    (folder / "8.orbax-checkpoint-tmp").mkdir()
    store.save_last(make_state(4), describe(4))
    store.close()
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    assert [path.name for path in (tmp_path / "checkpoints" / "best").iterdir()] == ["3"]


def test_a_whole_best_is_not_written_twice(tmp_path):
    """A resumed run reaches it again; it stays where it is, and gives way only to one of another course."""
    store = CheckpointStore(tmp_path)
    store.save_best(make_state(2), describe(10))
    store.wait()
    manifest = tmp_path / "checkpoints" / "best" / "10" / "manifest.json"
    before = manifest.stat().st_ino
    store.save_best(make_state(2), describe(10))
    store.wait()
    assert manifest.stat().st_ino == before
    store.save_best(make_state(3), describe(10).at(10, Progress(best=0.25)))
    store.close()
    assert_equal(load_checkpoint(tmp_path).variables["params"], make_state(3).average["params"])


def test_the_manifest_names_every_array(whole_run):
    items = json.loads((whole_run / "checkpoints" / "last" / "20" / "manifest.json").read_text())["items"]
    assert set(items) == {"variables", "average", "optimizer", "auxiliary", "description"}
    assert items["variables"]["leaves"] == {
        "params/a": {"shape": [3, 2], "dtype": "float32"},
        "params/b/c": {"shape": [4], "dtype": "float32"},
        "batch_stats/mean": {"shape": [2], "dtype": "float32"},
    }
    for name, item in items.items():
        for file, stored in item["files"].items():
            content = (whole_run / "checkpoints" / "last" / "20" / name / file).read_bytes()
            assert stored == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("item", ["variables", "average", "optimizer", "auxiliary"])
def test_what_is_not_finite_is_not_saved(tmp_path, item, value):
    store, state = saved_run(tmp_path)
    tree = getattr(state, item)
    leaves, structure = jax.tree.flatten(tree)
    broken = jax.tree.unflatten(structure, [*leaves[:-1], jnp.full_like(leaves[-1], value, jnp.float32)])
    with pytest.raises(UserError, match=f"step 30: the {item} are NaN or infinite"):
        store.save_last(state.replace(**{item: broken}), describe(30))
    assert store.latest_step() == 20
    store.close()


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, monkeypatch):
    variables = {"params": {"a": jnp.array([1.0, jnp.nan])}}
    with pytest.raises(UserError, match="weights are NaN or infinite"):
        save_variables(tmp_path / "w", variables, Description(config=CONFIG))
    assert not (tmp_path / "w").exists()
    monkeypatch.setattr(checkpoint, "_is_finite", lambda tree: True)
    save_variables(tmp_path / "w", variables, Description(config=CONFIG))
    monkeypatch.undo()
    with pytest.raises(UserError, match="the training diverged"):
        load_checkpoint(tmp_path / "w")


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
