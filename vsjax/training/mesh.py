"""One mesh with the axes `data`, `fsdp` and `space`, and where every array of a step lies on it.

Parallelism is by sharding alone: the step is one program, XLA's partitioner adds the communication."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vsjax.errors import UserError

AXES = ("data", "fsdp", "space")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices; one size may be -1 and takes what the others leave.

    Args:
        sizes: axis name to number of devices, for `data`, `fsdp` and `space`.
        devices: the devices to use, by default all.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [int(sizes[axis]) for axis in AXES]
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
        raise UserError(f"config.mesh ({named}): sizes must be positive and at most one may be -1")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices):
        raise UserError(
            f"config.mesh ({named}) does not divide the {len(devices)} devices; "
            f"set sizes whose product is {len(devices)}, or leave one at -1"
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def check_batch(mesh: Mesh, batch_size: int, patch_y: int) -> None:
    """Refuse a batch or a patch that does not divide over the mesh, naming both numbers."""
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % groups:
        raise UserError(
            f"config.data.batch_size={batch_size} does not divide over {groups} devices (mesh data x fsdp); "
            f"set a multiple of {groups}"
        )
    if patch_y % mesh.shape["space"]:
        raise UserError(
            f"config.data.patch: Y={patch_y} does not divide over {mesh.shape['space']} devices (mesh space); "
            f"set a multiple of {mesh.shape['space']}"
        )


def array_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Where an array of the batch lies: samples over `data` and `fsdp`; the Y axis of volumes `[B, Z, Y, X, C]` over
    `space`."""
    rows = ("data", "fsdp")
    return NamedSharding(mesh, PartitionSpec(rows, None, "space") if ndim == 5 else PartitionSpec(rows))


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of the batch as global arrays on the mesh."""
    return {
        name: jax.make_array_from_process_local_data(array_sharding(mesh, value.ndim), value)
        for name, value in batch.items()
    }


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """The sharding of every array of a state (given by `jax.eval_shape`): its largest axis that `fsdp` divides is
    sharded, anything else is replicated. The rule looks at shapes, so the moments and the EMA follow the parameters."""

    def leaf_sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        size = mesh.shape["fsdp"]
        axes = [axis for axis, length in enumerate(leaf.shape) if length % size == 0 and length >= size]
        if size == 1 or not axes or math.prod(leaf.shape) < 2**10:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[("fsdp" if axis == largest else None) for axis in range(leaf.ndim)]))

    return jax.tree.map(leaf_sharding, state)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
