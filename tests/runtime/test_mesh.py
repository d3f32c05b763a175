"""The mesh and where arrays lie on it; eight fake devices in a subprocess, since the count is fixed at start-up."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh

from vsjax.errors import UserError
from vsjax.runtime.mesh import check_batch, check_plane, make_mesh

EIGHT = """
import jax, numpy as np, optax
from vsjax.runtime.mesh import batch_rows, bytes_per_device, image_sharding, make_mesh, put_batch, state_shardings
mesh = make_mesh({"data": -1, "fsdp": 2, "space": 2})
assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "space": 2}, mesh.shape
assert batch_rows(mesh, 8) == tuple(range(8))
batch = {"source": np.arange(4 * 3 * 8 * 5).reshape(4, 3, 8, 5, 1).astype(np.float32), "scale": np.arange(4.0)}
arrays = put_batch(mesh, batch, 4)
for name in batch:
    np.testing.assert_array_equal(arrays[name], batch[name])
    assert {shard.data.shape for shard in arrays[name].addressable_shards} == {(1, *batch[name].shape[1:])}
image = jax.device_put(batch["source"], image_sharding(mesh))
assert {shard.data.shape for shard in image.addressable_shards} == {(1, 3, 4, 5, 1)}
shapes = {"conv": {"kernel": (7, 64, 96), "bias": (4096,)}, "odd": {"kernel": (31, 99)}}
params = jax.tree.map(lambda shape: np.zeros(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
state = {"params": params, "optimizer": optax.adamw(1e-3).init(params)}
shardings = state_shardings(mesh, jax.eval_shape(lambda: state))
flat = {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(sharding.spec)
    for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
}
spread = {name for name, spec in flat.items() if spec}
assert spread == {name for name in flat if name.endswith("conv/kernel")} and len(spread) == 3, flat
assert flat["params/conv/kernel"] == (None, None, "fsdp")
held = bytes_per_device(jax.device_put(params, shardings["params"]))
assert held == 4 * (7 * 64 * 48 + 4096 + 31 * 99), held
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
    check_batch(mesh, 3)


def test_parts_of_a_batch_must_divide_too():
    mesh = make_mesh({"data": -1, "fsdp": 1, "space": 1}, jax.devices()[:1])
    with pytest.raises(UserError, match=r"batch_size=6 .* 1 devices .* x 4 parts .*multiple of 4"):
        check_batch(mesh, 6, accumulate=4)


def test_the_plane_must_divide_after_the_last_halving_too():
    """64 rows are 2 rows after UNeXt2's stride of 32: XLA's partitioner spreads them over 4 devices wrongly."""
    mesh = AbstractMesh((1, 1, 4), ("data", "fsdp", "space"))
    check_plane(mesh, "config.data.patch", 256, 32)
    with pytest.raises(UserError, match=r"config\.data\.val_patch: Y=64 .* 4 devices .* multiple of 128"):
        check_plane(mesh, "config.data.val_patch", 64, 32)
    check_plane(AbstractMesh((4, 1, 1), ("data", "fsdp", "space")), "config.data.patch", 64, 32)
