"""Training over a mesh of eight fake devices gives the losses of one device, and sends between devices what it must and
no more: gradients, parameters that are spread over `fsdp`, and halos."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = 1000  # bytes: statistics of a norm, a data range, the order of a mask's cells
HALO = 14  # rows: the SSIM's windows reach 10, and the rows that they lose shift the parts by up to 4
ROWS = 256 // 8  # of a patch on each of eight devices
# Bytes of the depthwise kernels' taps that meet only padding where planes are 2 and 1 pixels wide (of 7 columns 4 and 6
# in encoder_2, encoder_3 and the decoder's first stage): they have no gradient to send.
IDLE = 4 * 7 * (4 * 24 + 6 * 32 + 4 * 24)


def curves(path, *arguments, flags=""):
    """Losses and collective operations, by mesh; the first is that of one device."""
    output = path / "curves.json"
    env = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", "scripts.sharded_curves", "--output", str(output), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {tuple(result["mesh"]): result for result in json.loads(output.read_text())}


def short(path, network, *meshes):
    """Four steps, compiled without XLA's optimisations of code, which take longer than the steps."""
    flags = "--xla_backend_optimization_level=0"
    found = curves(path, "--networks", network, "--steps", "4", "--meshes", *meshes, flags=flags)
    expected = found.pop((1, 1, 1))
    assert expected["collectives"] == []
    assert len(set(expected["losses"])) == 4
    for result in found.values():
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-5)
    return found


def large(result, operation):
    """Bytes and shapes of the operations of one kind that are not small."""
    return [(size, shapes) for kind, size, shapes, _ in result["collectives"] if kind == operation and size > SMALL]


def test_unext2_over_data_and_over_space(tmp_path):
    found = short(tmp_path, "unext2", "8,1,1", "1,1,8")
    data, space = found[8, 1, 1], found[1, 1, 8]
    ((size, _),) = large(data, "all-reduce")
    assert size == pytest.approx(data["parameter_bytes"] - IDLE, abs=SMALL)
    assert all(size < SMALL or kind == "all-reduce" for kind, size, *_ in data["collectives"])

    assert not [kind for kind, size, *_ in space["collectives"] if kind == "all-gather"]
    assert not large(space, "all-to-all")
    halos = [shape for _, shapes in large(space, "collective-permute") for shape in shapes]
    assert any(shape[-3] == 3 and shape[-1] == 28 * 4 // 2 for shape in halos), halos  # of the 7x7 convolutions
    assert max(shape[-3] for shape in halos) <= HALO < ROWS
    gradients = sum(size for size, _ in large(space, "all-reduce"))
    sent = data["parameter_bytes"] - IDLE
    assert 0.99 * sent < gradients < 1.3 * sent  # and GRN's sums over the plane


def test_fcmae_over_all_axes(tmp_path):
    ((_, result),) = short(tmp_path, "fcmae", "2,2,2").items()
    gathered = sum(size for size, _ in large(result, "all-gather"))
    assert 0.5 * result["parameter_bytes"] < gathered <= result["parameter_bytes"]
    shapes = [shape for kind, _, arrays, _ in result["collectives"] if kind == "all-gather" for shape in arrays]
    assert {math.prod(shape) for shape in shapes} <= set(result["parameter_sizes"])  # of parameters, not activations
    assert not large(result, "all-to-all")
    assert max(shape[-3] for _, shapes in large(result, "collective-permute") for shape in shapes) <= HALO


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unext2", "fcmae"])
def test_fifty_steps_on_every_mesh(tmp_path, network):
    """AdamW enlarges the differences that the order of sums makes; after 50 steps they are still below 1e-5."""
    found = curves(tmp_path, "--networks", network, "--steps", "50")
    assert len(found) == 5
    expected = found[1, 1, 1]["losses"]
    assert expected[-1] < 0.9 * expected[0]
    for result in found.values():
        np.testing.assert_allclose(result["losses"], expected, rtol=1e-5)
