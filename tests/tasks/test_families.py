"""What every family is promised by loop, checkpoints, mesh and predictor, for two that ask most of them: one with two
networks and two optimisers, and a diffusion, whose predictions are drawn."""

import functools
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
from toys import CONFIGS, two_networks_config

import vsjax
from vsjax.models.registry import network_of
from vsjax.runtime.checkpoint import load_checkpoint
from vsjax.tasks.registry import resolve

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12


def start(family, workdir, plate, *mesh, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, ROOT / "tests" / "toys.py", family, workdir, plate, STEPS, *mesh]
    return subprocess.Popen(list(map(str, command)), env=env, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr


def log_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def arrays(workdir):
    """Every stored byte of the last checkpoint's arrays, by item: all networks and optimisers."""
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / "last" / str(STEPS)
    with ocp.StandardCheckpointer() as checkpointer:
        found = {path.name for path in folder.iterdir()} & {"variables", "average", "optimizer", "auxiliary"}
        return {item: checkpointer.restore(folder / item) for item in sorted(found)}


@pytest.fixture(scope="module")
def run_of(simulated_plate, tmp_path_factory):
    """`run_of(family)`: the folder of its run without interruption."""

    @functools.cache
    def run(family):
        workdir = tmp_path_factory.mktemp(family) / "straight"
        finish(start(family, workdir, simulated_plate))
        return workdir

    return run


def test_both_networks_learn(run_of):
    straight = run_of("two_networks")
    log = log_of(straight)
    losses, critic = (
        [line[f"train/{name}"] for line in log if "train/loss" in line] for name in ("loss", "critic_loss")
    )
    assert losses[-1] < 0.9 * losses[0]
    assert critic[-1] < 0.9 * critic[0]
    realism = {line["step"]: line["val/realism"] for line in log if "val/realism" in line}
    assert load_checkpoint(straight, "best").description.step == max(realism, key=realism.get)


@pytest.mark.parametrize("family", CONFIGS)
def test_killed_it_resumes_bit_for_bit(family, run_of, simulated_plate, tmp_path):
    straight, workdir = run_of(family), tmp_path / "killed"
    process = start(family, workdir, simulated_plate)
    deadline = time.monotonic() + 200
    while not (workdir / "checkpoints" / "last" / "4").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "checkpoints" / "last" / str(STEPS)).exists()
    finish(start(family, workdir, simulated_plate))
    jax.tree.map(np.testing.assert_array_equal, arrays(straight), arrays(workdir))
    assert log_of(straight) == log_of(workdir)


@pytest.mark.parametrize("family", CONFIGS)
def test_it_shards_over_all_axes(family, run_of, simulated_plate, tmp_path):
    finish(start(family, tmp_path / "sharded", simulated_plate, 2, 2, 2, devices=8))
    for one, eight in zip(log_of(run_of(family)), log_of(tmp_path / "sharded"), strict=True):
        assert one.keys() == eight.keys()
        np.testing.assert_allclose(list(one.values()), list(eight.values()), rtol=1e-5)


def test_prediction_needs_the_generator_alone(run_of, simulated_plate):
    straight = run_of("two_networks")
    checkpoint = load_checkpoint(straight)
    assert set(checkpoint.variables) == {"params"}
    assert not (Path(checkpoint.path) / "auxiliary").exists()
    volume = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    generator = network_of(resolve(two_networks_config(simulated_plate, STEPS)))
    normalised = ((volume - volume.mean()) / volume.std())[None, ..., None]
    expected = np.asarray(generator.apply(checkpoint.variables, normalised))[0]
    np.testing.assert_allclose(vsjax.load(straight).predict(volume), expected, atol=1e-5)
