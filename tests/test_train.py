"""`python -m vsjax.train` from outside: it learns, logs, goes on after a kill bit for bit, refuses what cannot be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vsjax.runtime.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "data.patch": "(5, 32, 32)",
    "data.batch_size": "2",
    "data.val_fovs": "A/1/0",
    "task.loss.scales": "1",
    "augment.rotation": "right_angles",
    "augment.scale_probability": "0",
    "augment.shear_probability": "0",
    "optim.average_decay": "0.9",
    "train.steps": "9",
    "train.log_every": "2",
    "train.validate_every": "3",
    "train.save_every": "3",
}


def command(workdir, plate, **changes):
    fields = SMALL | {"data.plates": plate} | changes
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "vsjax.train", "--config=configs/unext2.py:debug", f"--workdir={workdir}", *flags]


# Nine steps of a small network are not worth XLA's optimisation, which takes longer than they do.
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def run(workdir, plate, **changes):
    options = {"cwd": ROOT, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command(workdir, plate, **changes), **options, check=False)


@pytest.fixture(scope="module")
def straight(simulated_plate, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    done = run(workdir, simulated_plate)
    assert done.returncode == 0, done.stderr
    return workdir, done.stderr


def log_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_log_tells_the_whole_run(straight):
    workdir, stderr = straight
    lines = log_of(workdir)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 3, 4, 6, 8, 9]
    validated = [line for line in lines if "val/pearson" in line]
    assert [line["step"] for line in validated] == [3, 6, 9]
    per_channel = [validated[-1][f"val/pearson/{channel}"] for channel in ("nuclei", "membrane")]
    np.testing.assert_allclose(np.mean(per_channel), validated[-1]["val/pearson"], rtol=1e-6)
    assert "parameters" in stderr
    assert "G multiply-adds" in stderr
    assert "9/9" in stderr
    image = np.asarray(Image.open(workdir / "images" / "sample_0000009.png"))
    assert image.shape == (2 * 36, 3 * 36, 3)
    assert image.std() > 20


def test_checkpoints_describe_themselves(straight):
    workdir, _ = straight
    last, best = load_checkpoint(workdir, "last"), load_checkpoint(workdir, "best")
    assert last.description.step == 9
    losses = {line["step"]: line["val/loss"] for line in log_of(workdir) if "val/loss" in line}
    assert best.description.step == min(losses, key=losses.get)
    assert best.description.progress.best == pytest.approx(min(losses.values()))
    assert last.description.channels_of("source") == ("BF",)
    assert last.description.channels_of("target") == ("nuclei", "membrane")
    assert last.description.pixel_size_um == pytest.approx((1.0, 0.325, 0.325))
    assert set(last.description.statistics) == {"BF", "nuclei", "membrane"}
    assert last.description.progress.finished
    assert last.description.config["model"]["in_channels"] == 1
    assert last.description.config["model"]["out_channels"] == 2


def kill_when(process, condition):
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()


def test_killed_twice_it_ends_with_the_same_numbers(straight, simulated_plate, tmp_path):
    """Once right after a checkpoint, once while one is being written."""
    workdir = tmp_path / "killed"
    checkpoints = workdir / "checkpoints" / "last"
    moments = [
        lambda: (checkpoints / "3").exists(),
        lambda: any("tmp" in path.name and not path.name.startswith("3") for path in checkpoints.glob("*")),
    ]
    for moment in moments:
        quiet = {"cwd": ROOT, "env": ENVIRONMENT, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command(workdir, simulated_plate), **quiet) as process:
            kill_when(process, moment)
        assert process.returncode == -signal.SIGKILL
    done = run(workdir, simulated_plate)
    assert done.returncode == 0, done.stderr
    assert "resuming from step 3" in done.stderr or "resuming from step 6" in done.stderr
    for which in ("last", "best"):
        expected, found = load_checkpoint(straight[0], which), load_checkpoint(workdir, which)
        assert expected.description.step == found.description.step
        jax.tree.map(np.testing.assert_array_equal, expected.variables, found.variables)
    drop_rate = [{k: v for k, v in line.items() if k != "steps_per_second"} for line in log_of(workdir)]
    assert drop_rate == [{k: v for k, v in line.items() if k != "steps_per_second"} for line in log_of(straight[0])]


def test_a_finished_run_stays_as_it_is(straight, simulated_plate):
    workdir, _ = straight
    before = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*") if path.is_file()}
    done = run(workdir, simulated_plate)
    assert done.returncode == 0
    assert "complete" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles.source.channels": "Phas"}, ["Phas", "'BF', 'nuclei', 'membrane'"]),
        ({"data.patch": "(5, 128, 128)"}, ["96", "128", "config.data.patch"]),
        ({"data.patch": "(7, 32, 32)"}, ["7", "5", "stem"]),
        ({"data.pacth": "3"}, ["pacth"]),
        ({"data.plates": "nowhere.zarr"}, ["nowhere.zarr"]),
        ({"mesh.data": "3"}, ["config.mesh", "3"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(simulated_plate, tmp_path, changes, words):
    done = run(tmp_path / "run", simulated_plate, **changes)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    assert len(last) == 1, done.stderr
    for word in words:
        assert word in last[0]
    assert not (tmp_path / "run").exists()


def test_another_config_does_not_continue_a_run(straight, simulated_plate):
    done = run(straight[0], simulated_plate, **{"optim.learning_rate": 0.1})
    assert done.returncode == 1
    assert "config.optim.learning_rate=0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_nan_stops_the_run_and_names_the_step(simulated_plate, tmp_path):
    done = run(tmp_path / "run", simulated_plate, **{"optim.learning_rate": 1e30, "optim.warmup_steps": 0})
    assert done.returncode == 1
    assert " step 2: " in done.stderr or " step 3: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.exists(tmp_path / "run" / "checkpoints" / "last" / "3")
