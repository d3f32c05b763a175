"""Training in several real processes that talk over loopback: the same numbers, told to stop, killed, and resumed by
another number of processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


def command(workdir, plate, *more):
    fields = {
        "data.plates": plate,
        "data.batch_size": 4,
        "data.val_fovs": "A/1/0",
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.validate_every": 20,
        "train.save_every": 5,
        "model.depthwise": "conv",
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    config = "--config=configs/vscyto2d.py:debug"
    return [sys.executable, "-m", "vsjax.train", config, f"--workdir={workdir}", *flags, *more]


def start(workdir, plate, processes, devices=1, *more):
    """So many processes of one training, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    started = []
    for number in range(processes):
        others = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={number}"]
        line = command(workdir, plate, *(others if processes > 1 else []), *more)
        started.append(subprocess.Popen(line, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    return started


def finish(started, timeout=300):
    """Exit statuses and what each process said."""
    said = [process.communicate(timeout=timeout)[1] for process in started]
    return [process.returncode for process in started], said


def wait_for(workdir, step, started):
    """Until the checkpoint of `step` is there."""
    deadline = time.monotonic() + 250
    while not (workdir / "checkpoints" / "last" / str(step)).exists():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started), finish(started)
        time.sleep(0.01)


def log_of(workdir):
    """Every number of the log by (step, name), without the times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    pairs = [
        ((line["step"], name), value) for line in lines for name, value in line.items() if name != "steps_per_second"
    ]
    return {key: value for key, value in pairs if key[1] != "step"}


def assert_same_curve(found, expected):
    """Losses to 1e-6; the gradient's norm, and correlations near zero, show the order of summation a little more."""
    assert found.keys() == expected.keys()
    for (step, name), value in expected.items():
        tolerance = 1e-6 if name.endswith("loss") else 2e-5
        np.testing.assert_allclose(found[step, name], value, rtol=tolerance, err_msg=f"{name} at step {step}")


@pytest.fixture(scope="module")
def alone(simulated_plate, tmp_path_factory):
    """One undisturbed process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    statuses, said = finish(start(workdir, simulated_plate, 1))
    assert statuses == [0], said
    return workdir


def test_two_processes_told_to_stop_are_continued_by_one(alone, simulated_plate, tmp_path):
    """The one that is told (SIGTERM) tells the other; both exit with the status that asks for a restart."""
    workdir = tmp_path / "run"
    started = start(workdir, simulated_plate, 2)
    wait_for(workdir, 5, started)
    started[1].send_signal(signal.SIGTERM)
    statuses, said = finish(started)
    assert statuses == [75, 75], said
    assert "told to stop after step" in said[0]
    stopped = max(step for step, _ in log_of(workdir))
    assert 5 <= stopped < STEPS
    assert (workdir / "checkpoints" / "last" / str(stopped)).exists()
    statuses, said = finish(start(workdir, simulated_plate, 1))
    assert statuses == [0], said
    assert f"resuming from step {stopped}" in said[0]
    assert_same_curve(log_of(workdir), log_of(alone))
    assert len(list((workdir / "images").iterdir())) == 2


@pytest.mark.slow
def test_eight_devices_in_another_mesh_are_continued_by_one(alone, simulated_plate, tmp_path):
    """Parameters and moments that were spread over `fsdp` come back whole, and the data go on at the same step."""
    workdir = tmp_path / "run"
    started = start(workdir, simulated_plate, 1, 8, "--config.mesh.fsdp=2", "--config.mesh.space=2")
    wait_for(workdir, 10, started)
    started[0].send_signal(signal.SIGTERM)
    statuses, said = finish(started)
    assert statuses == [75], said
    statuses, said = finish(start(workdir, simulated_plate, 1))
    assert statuses == [0], said
    assert_same_curve(log_of(workdir), log_of(alone))


@pytest.mark.slow
def test_one_of_four_killed_and_everything_restarted_on_two(alone, simulated_plate, tmp_path):
    workdir = tmp_path / "run"
    started = start(workdir, simulated_plate, 4)
    wait_for(workdir, 10, started)
    started[2].kill()
    for process in started:  # as a scheduler does when one process of a job step is lost
        process.kill()
    finish(started)
    assert max(int(path.name) for path in (workdir / "checkpoints" / "last").iterdir() if path.name.isdigit()) >= 10
    statuses, said = finish(start(workdir, simulated_plate, 2, devices=2))
    assert statuses == [0, 0], said
    assert "resuming from step" in said[0]
    assert_same_curve(log_of(workdir), log_of(alone))


def test_one_process_told_to_stop_saves_and_goes_on(alone, simulated_plate, tmp_path):
    workdir = tmp_path / "run"
    started = start(workdir, simulated_plate, 1)
    wait_for(workdir, 5, started)
    started[0].send_signal(signal.SIGTERM)
    statuses, said = finish(started)
    assert statuses == [75], said
    statuses, said = finish(start(workdir, simulated_plate, 1))
    assert statuses == [0], said
    assert log_of(workdir) == log_of(alone)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator=localhost:1"], "--processes N"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "--process=2 must be from 0 to 1"),
        (["--cluster", "--processes=2"], "leave --coordinator"),
    ],
)
def test_incomplete_flags_are_one_line(simulated_plate, tmp_path, flags, words):
    line = command(tmp_path / "run", simulated_plate, *flags)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
