"""The mesh and where arrays lie on it; eight fake devices in a subprocess, since the count is fixed at start-up."""

import os
import subprocess
import sys

import jax
import pytest

from vsjax.errors import UserError
from vsjax.training.mesh import check_batch, make_mesh

EIGHT = """
import jax, numpy as np
from vsjax.training.mesh import make_mesh, put_batch, state_shardings
mesh = make_mesh({"data": -1, "fsdp": 2, "space": 2})
assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "space": 2}, mesh.shape
batch = {"source": np.arange(4 * 3 * 8 * 5).reshape(4, 3, 8, 5, 1).astype(np.float32), "scale": np.arange(4.0)}
arrays = put_batch(mesh, batch)
np.testing.assert_array_equal(arrays["source"], batch["source"])
assert {shard.data.shape for shard in arrays["source"].addressable_shards} == {(1, 3, 4, 5, 1)}
assert {shard.data.shape for shard in arrays["scale"].addressable_shards} == {(1,)}
state = {"kernel": jax.ShapeDtypeStruct((7, 64, 96), np.float32), "odd": jax.ShapeDtypeStruct((31, 99), np.float32)}
specs = {name: sharding.spec for name, sharding in state_shardings(mesh, state).items()}
assert tuple(specs["kernel"]) == (None, None, "fsdp") and tuple(specs["odd"]) == (), specs
"""


def test_eight_devices():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", EIGHT], env=env, check=True, timeout=120)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 7, 1), (0, 1, 1), (-1, -1, 1)])
def test_sizes_that_do_not_divide(sizes):
    with pytest.raises(UserError, match=r"config\.mesh"):
        make_mesh(dict(zip(("data", "fsdp", "space"), sizes, strict=True)), jax.devices()[:1])


def test_batch_must_divide_over_the_mesh():
    mesh = make_mesh({"data": -1, "fsdp": 1, "space": 1}, jax.devices()[:1])
    check_batch(mesh, 3, 7)
