"""Prediction of a plane that several devices share, against one device; eight fake ones in a subprocess."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_network import save_checkpoint

from vsjax.errors import UserError
from vsjax.inference.settings import PredictionSettings

EIGHT = """
import sys
from dataclasses import replace
import jax, numpy as np
from vsjax.inference.compiled import Draw
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.inference.tiling import Padding

predictor = load(sys.argv[1])
random = np.random.default_rng(0)
zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)

def predict(stack, **settings):
    return predictor.predict_stack(stack, zero, one, PredictionSettings(**settings))

def compare(found, expected):
    assert found.shape == expected.shape
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())

stack = random.normal(size=(6, 256, 32, 1)).astype(np.float32)
whole = predict(stack)
compare(predict(stack, space=8, batch_size=1), whole)
small = np.ascontiguousarray(stack[:5, :128, :128])
small = np.concatenate([small] * 4, axis=2) + 0.1 * random.normal(size=(5, 128, 128, 1)).astype(np.float32)
for tta in ("mean", "median"):
    compare(predict(small, space=4, tta=tta), predict(small, tta=tta))

# 150 rows: one device needs 160, four need 256, with the same reflections on one device
odd = stack[:5, :150]
padding = Padding.to_divisor((150, 32), (128, 32))
compare(predict(odd, space=4), padding.crop(predict(padding.pad(odd))))

# The parts lie where they should, and nothing of the plane is gathered
from vsjax.runtime.collectives import read_collectives
output = predictor.compiled(stack[None, :5], np.zeros((1, 3)), Draw(key=jax.random.key(0), space=8))
assert {shard.data.shape[2] for shard in output.addressable_shards} == {32}
kinds = {one.operation for one in read_collectives(predictor.compiled.program((1, 5, 256, 32, 1), 8).as_text())}
assert kinds == {"collective-permute", "all-reduce"}, kinds

# A plane that one device cannot hold is shared, not tiled: memory made scarce between the needs of one and of eight
import vsjax.inference.compiled as network
shape = (1, 5, 8192, 32, 1)
needs = {n: network._bytes_needed(predictor.compiled.program(shape, n)) for n in (1, 8)}
assert needs[8] < needs[1] / 2, needs
network._free_bytes = lambda device, space: (needs[1] + needs[8]) // 2
chosen = predictor.resolve((5, 8192, 32, 1), PredictionSettings())
assert (chosen.space, chosen.tile) == (8, (8192, 32)), chosen
network._free_bytes = lambda device, space: needs[8] // 2
tiled = predictor.resolve((5, 8192, 32, 1), PredictionSettings())
assert tiled.space == 8 and tiled.tile[0] < 8192 and tiled.tile[0] % 256 == 0, tiled
"""


def test_eight_devices_stain_as_one(tmp_path):
    settings = {"in_stack_depth": 5, "backbone": "convnextv2_atto", "decoder_conv_blocks": 1, "head_expansion_ratio": 1}
    save_checkpoint(tmp_path / "run", name="unext2", **settings)
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", EIGHT, tmp_path / "run"], env=env, cwd=root, check=True, timeout=300)


def test_devices_that_are_not_there():
    with pytest.raises(UserError, match=r"space is 100; this process has only \d+ devices"):
        PredictionSettings(space=100).check()
