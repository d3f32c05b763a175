"""The loop from inside: what decides the best checkpoint, ending early, and that nothing is left open."""

import json
import math
import shutil
import signal
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import TwoNetworks, two_networks_config

from vsjax.errors import UserError
from vsjax.runtime.checkpoint import CheckpointStore, load_checkpoint
from vsjax.runtime.manifest import check_whole
from vsjax.tasks.registry import TASKS
from vsjax.tasks.task import MetricSpec
from vsjax.training import loop
from vsjax.training.loop import train

FINISHED = []  # steps that the device has done


@dataclass(frozen=True, kw_only=True)
class Scripted(TwoNetworks):
    """Learns nothing; its validations say what a test wants, and its loss becomes what the test wants."""

    metrics = {"score": MetricSpec(maximise=True, columns=("a", "b"), partial=True)}  # noqa: RUF012
    scores = (0.0,)
    losses = (1.0,)
    breaks_at = -1  # the update after which a parameter is NaN

    def step(self, state, batch, key):
        def note(step):
            time.sleep(0.02)
            FINISHED.append(int(step))
            return np.float32(0)

        noted = jax.pure_callback(note, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        losses = jnp.array(self.losses)
        broken = jnp.where(state.step + 1 == self.breaks_at, jnp.nan, 0.0)
        state = state.replace(variables=jax.tree.map(lambda x: (x + broken).astype(x.dtype), state.variables))
        return state.replace(step=state.step + 1), {"loss": noted + losses[jnp.minimum(state.step, len(losses) - 1)]}

    def evaluate(self, state, batch, key):
        score = jnp.array(self.scores)[state.step - 1]
        return {"score": jnp.full((batch["source"].shape[0], 2), 1.0) * jnp.array([score, 0.5])}


@pytest.fixture
def config(simulated_plate, monkeypatch):
    monkeypatch.setitem(TASKS, "two_networks", Scripted)
    FINISHED.clear()
    config = two_networks_config(simulated_plate, 4)
    config.train.update(validate_every=1, save_every=2, best="score/a")
    return config


def scripted(monkeypatch, **said):
    for name, value in said.items():
        monkeypatch.setattr(Scripted, name, value)


def validated(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "val/score" in line]


@pytest.mark.parametrize(
    ("scores", "best"),
    [((0.1, 0.3, 0.2, 0.1), 2), ((math.nan, 0.1, math.nan, math.nan), 2), ((0.4, math.inf, 0.3, 0.2), 1)],
)
def test_the_best_of_a_channel_is_the_largest_and_never_undefined(config, monkeypatch, tmp_path, scores, best):
    scripted(monkeypatch, scores=scores)
    train(config, tmp_path)
    description = load_checkpoint(tmp_path, "best").description
    assert description.step == best
    assert description.progress.best == pytest.approx(scores[best - 1])


def test_without_a_better_validation_the_run_ends_and_is_complete(config, monkeypatch, tmp_path):
    config.train.update(steps=9, patience=2)
    scripted(monkeypatch, scores=(0.1, 0.3, 0.3, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9))
    train(config, tmp_path)
    assert validated(tmp_path) == [1, 2, 3, 4]
    assert load_checkpoint(tmp_path, "last").description.progress.finished
    assert train(config, tmp_path) == {}
    assert validated(tmp_path) == [1, 2, 3, 4]


def test_patience_counts_over_a_restart(config, monkeypatch, tmp_path):
    """Stopped two validations after the best one, with a patience of three, it ends one validation later."""
    config.train.update(steps=9, patience=3)
    losses = (1.0, 1.0, 1.0, 1.0, math.nan)
    scripted(monkeypatch, scores=(0.1, 0.3, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9), losses=losses)
    with pytest.raises(UserError, match="step 5: loss is nan"):
        train(config, tmp_path)
    scripted(monkeypatch, losses=(1.0,))
    train(config, tmp_path)
    assert validated(tmp_path) == [1, 2, 3, 4, 5]


def test_an_error_closes_what_the_run_opened(config, monkeypatch, tmp_path):
    """The signal's handler is given back, what was saved is whole, and the same process can resume the run."""
    before, given = signal.getsignal(signal.SIGTERM), config.to_json_best_effort()
    scripted(monkeypatch, scores=(0.1, 0.2, 0.3, 0.4), losses=(1.0, 1.0, 1.0, math.nan))
    with pytest.raises(UserError, match=r"step 4: loss is nan"):
        train(config, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    assert config.to_json_best_effort() == given
    store = CheckpointStore(tmp_path)
    assert store.latest_step() == 2
    store.close()
    scripted(monkeypatch, losses=(1.0,))
    assert train(config, tmp_path)["score/a"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"losses": (1.0, 1.0, 1.0, math.nan)}, "step 4: loss is nan, so training stopped"),
        ({"losses": (1.0, 1.0, 1.0, math.inf)}, "step 4: loss is inf, so training stopped"),
        ({"breaks_at": 4}, "step 4: the variables are NaN or infinite, so training stopped"),
    ],
)
def test_divergence_on_the_last_step_saves_nothing(config, monkeypatch, tmp_path, said, message):
    """The validation there is the best of all and the run would be finished; neither is kept."""
    scripted(monkeypatch, scores=(0.1, 0.3, 0.2, 0.9), **said)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path)
    last = load_checkpoint(tmp_path, "last").description
    assert (last.step, last.progress.finished) == (2, False)
    assert load_checkpoint(tmp_path, "best").description.step == 2
    scripted(monkeypatch, losses=(1.0,), breaks_at=-1)
    train(config, tmp_path)
    assert load_checkpoint(tmp_path, "last").description.progress.finished
    assert load_checkpoint(tmp_path, "best").description.step == 4


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(config, monkeypatch, tmp_path, caplog):
    """The log, too, goes back; the run ends as if nothing had happened."""
    config.train.update(steps=6)
    scripted(monkeypatch, scores=(0.1, 0.3, 0.2, 0.1, 0.4, 0.2), losses=(1.0, 2.0, 3.0, 4.0, math.nan))
    with pytest.raises(UserError, match="step 5: loss is nan"):
        train(config, tmp_path)
    newest = tmp_path / "checkpoints" / "last" / "4"
    shutil.rmtree(newest / "optimizer")
    scripted(monkeypatch, losses=(1.0,))
    train(config, tmp_path)
    assert f"{newest}: item 'optimizer' is missing" in caplog.text
    assert validated(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in newest.parent.iterdir()) == ["4", "6"]
    assert load_checkpoint(tmp_path, "best").description.step == 5
    for step in (4, 6):
        check_whole(newest.with_name(str(step)))


def test_a_best_without_its_run_is_not_replaced(config, monkeypatch, tmp_path):
    """Somebody has deleted `last`, or asks for another config."""
    scripted(monkeypatch, scores=(0.1, 0.2, 0.2, 0.4))
    train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "last")
    with pytest.raises(UserError, match="checkpoints/best is of step 4, but checkpoints/last is not there"):
        train(config, tmp_path)
    config.train.save_every = 4
    config.seed += 1
    with pytest.raises(UserError, match=r"config\.seed="):
        train(config, tmp_path)
    assert load_checkpoint(tmp_path).description.step == 4


def test_the_bar_shows_steps_that_are_done(config, monkeypatch, tmp_path):
    config.train.update(steps=20, validate_every=20, save_every=20, log_every=20)
    scripted(monkeypatch, scores=(0.5,) * 20)
    shown = []

    class Bar(loop.tqdm):
        def update(self, n=1):
            shown.append((self.n + n, len(FINISHED)))
            return super().update(n)

    monkeypatch.setattr(loop, "tqdm", Bar)
    train(config, tmp_path)
    assert [count for count, _ in shown] == list(range(1, 21))
    assert all(count <= finished for count, finished in shown), shown
