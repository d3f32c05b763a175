"""A disk that is full or read-only stops a program with one line, and the same command goes on once it is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.runtime.checkpoint import load_checkpoint
from vsjax.simulation import SimulationConfig, write_plate

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "data.patch": "(4, 32, 32)",
    "data.batch_size": 2,
    "data.val_fovs": "A/1/0",
    "optim.average_decay": 0.9,
    "train.steps": 12,
    "train.log_every": 2,
    "train.validate_every": 6,
    "train.save_every": 3,
}


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """Three FOVs of (1, 3, 5, 64, 64)."""
    path = tmp_path_factory.mktemp("plate") / "cells.zarr"
    write_plate(str(path), SimulationConfig(shape=(5, 64, 64), channels=("BF", "nuclei", "membrane")), 3)
    write_statistics(open_plate(path))
    return path


@pytest.fixture(scope="module")
def undisturbed(plate, tmp_path_factory):
    """A training and a prediction with all the space that they want."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for done in (train(plate, folder / "run"), predict(plate, folder / "run", folder / "S.zarr")):
        assert done.returncode == 0, done.stderr
    return folder


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path):
        self.path = path

    def mount(self, options, again=True):
        """Mount it, or change its size or whether it may be written to."""
        command = ["mount", "-o", f"remount,{options}"] if again else ["mount", "-t", "tmpfs", "-o", options, "tmpfs"]
        return subprocess.run([*command, self.path], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    done = disk.mount("size=8m", again=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk.path], check=True)


def run(module, *arguments, limit="unlimited"):
    """A program; no file that it writes may be larger than `limit` KiB."""
    command = [sys.executable, "-m", f"vsjax.{module}", *map(str, arguments)]
    limited = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *command]
    return subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def train(plate, workdir, **options):
    fields = [f"--config.{name}={value}" for name, value in (SETTINGS | {"data.plates": plate}).items()]
    return run("train", "--config=configs/fnet3d.py:debug", f"--workdir={workdir}", *fields, **options)


def predict(plate, checkpoint, output, **options):
    return run("predict", "--checkpoint", checkpoint, "--which=last", "--input", plate, "--output", output, **options)


def assert_refused(done, path, reason):
    """Status 1, and beside the log and the progress bar one line, with path, reason and remedy."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("vsjax.")
    assert f"error: {path}" in line
    assert reason in line
    assert "give the same command again" in line


def assert_same_training(first, second):
    for which in ("last", "best"):
        a, b = load_checkpoint(first, which), load_checkpoint(second, which)
        assert a.description.step == b.description.step
        for x, y in zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True):
            np.testing.assert_array_equal(x, y)
    assert log_of(first) == log_of(second)


def log_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def assert_same_plate(first, second):
    for one, two in zip(open_plate(first).positions(), open_plate(second).positions(), strict=True):
        np.testing.assert_array_equal(one.array().read().result(), two.array().read().result())
    assert open_plate(second).attributes["vsjax"]["complete"]


@pytest.mark.parametrize("free_kb", [80, 400, 600])
def test_training_on_a_full_disk(disk, plate, undisturbed, free_kb):
    """At the first checkpoint, while it is written, or with one that is whole; never damaged, always gone on with."""
    disk.mount(f"size={free_kb}k")
    workdir = disk.path / "run"
    assert_refused(train(plate, workdir), workdir, "No space left on device")
    for step in (workdir / "checkpoints").glob("*/*"):
        if step.name.isdigit():
            load_checkpoint(workdir, step.parent.name)
    disk.mount("size=8m")
    done = train(plate, workdir)
    assert done.returncode == 0, done.stderr
    assert_same_training(undisturbed / "run", workdir)


def test_training_into_a_read_only_folder(disk, plate, undisturbed):
    """At the start, and when the disk turns read-only between two runs."""
    disk.mount("ro")
    workdir = disk.path / "run"
    assert_refused(train(plate, workdir), workdir, "Read-only file system")
    disk.mount("rw")
    assert train(plate, workdir).returncode == 0
    assert_same_training(undisturbed / "run", workdir)


@pytest.mark.parametrize("free_kb", [24, 100, 160])
def test_prediction_on_a_full_disk(disk, plate, undisturbed, free_kb):
    """While the plate is begun, at its first position, or later."""
    disk.mount(f"size={free_kb}k")
    output = disk.path / "S.zarr"
    assert_refused(predict(plate, undisturbed / "run", output), output, "No space left on device")
    disk.mount("size=8m")
    done = predict(plate, undisturbed / "run", output)
    assert done.returncode == 0, done.stderr
    assert_same_plate(undisturbed / "S.zarr", output)


def test_prediction_into_a_read_only_folder(disk, plate, undisturbed):
    disk.mount("ro")
    output = disk.path / "S.zarr"
    assert_refused(predict(plate, undisturbed / "run", output), output, "Read-only file system")


@pytest.mark.parametrize("limit", [2, 8])
def test_training_whose_files_may_not_grow(tmp_path, plate, undisturbed, limit):
    """The same where nothing can be mounted: a limit on the size of every file."""
    workdir = tmp_path / "run"
    assert_refused(train(plate, workdir, limit=limit), workdir, os.strerror(27))
    done = train(plate, workdir)
    assert done.returncode == 0, done.stderr
    assert_same_training(undisturbed / "run", workdir)


def test_prediction_whose_files_may_not_grow(tmp_path, plate, undisturbed):
    output = tmp_path / "S.zarr"
    assert_refused(predict(plate, undisturbed / "run", output, limit=16), output, os.strerror(27))
    done = predict(plate, undisturbed / "run", output)
    assert done.returncode == 0, done.stderr
    assert_same_plate(undisturbed / "S.zarr", output)
