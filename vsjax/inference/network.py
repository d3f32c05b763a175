"""The trained network as inference sees it: compiled once per shape, with an account of the memory that it needs."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vsjax.errors import UserError
from vsjax.models.registry import build_model
from vsjax.runtime.checkpoint import Checkpoint
from vsjax.runtime.mesh import image_sharding, make_mesh, replicated

Shape = tuple[int, int, int, int, int]  # B, Z, Y, X, C


class Network:
    """`network(windows)` applies the checkpoint's model; see `windows.Apply` for the shapes.

    Attributes:
        in_depth: slices that it sees.
        out_depth: slices that it predicts.
        in_channels: source channels.
        out_channels: target channels.
        divisor: what Y and X of the input must be multiples of.
        receptive_radius: how far it looks from a pixel in Y and X; None if it sees the whole image.
        fingerprint: 16 hexadecimal digits that differ if any weight or setting of the model differs.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Build the model that the checkpoint's configuration names.

        Raises:
            UserError: the stored weights are not those of this model.
        """
        settings = dict(checkpoint.config["model"])
        self._module = build_model(settings.pop("name"), checkpoint.config.get("dtype", "float32"), **settings)
        self.in_depth = int(self._module.in_stack_depth)
        self.in_channels = int(self._module.in_channels)
        self.divisor: tuple[int, int] = tuple(int(d) for d in self._module.divisor[1:])
        self.receptive_radius: int | None = self._module.receptive_radius
        self.out_depth, self.out_channels = self._module.out_depth, int(self._module.out_channels)
        example = jax.ShapeDtypeStruct((1, self.in_depth, *self.divisor, self.in_channels), jnp.float32)
        expected = jax.eval_shape(lambda x: self._module.init(jax.random.key(0), x, train=False), example)
        _check_variables(checkpoint, expected)
        self.fingerprint = _fingerprint(checkpoint)
        self._variables = {1: jax.device_put(checkpoint.variables)}
        self._compiled: dict[tuple[Shape, int], jax.stages.Compiled] = {}

    def __call__(self, windows: np.ndarray | jax.Array, space: int = 1) -> jax.Array:
        """[B, in_depth, Y, X, C] float32 -> [B, out_depth, Y, X, C'] float32.

        `space` devices share Y, which must be a multiple of `space * divisor`; the result lies on them likewise.
        """
        compiled = self.compiled(windows.shape, space)
        if space == 1:
            return compiled(self._variables[1], jnp.asarray(windows, jnp.float32))
        windows = windows.astype(np.float32)
        return compiled(self._variables[space], jax.device_put(windows, image_sharding(_space_mesh(space))))

    def fits(self, shape: Shape, space: int = 1) -> tuple[bool, float]:
        """Whether inputs of this shape, shared by `space` devices, fit the free memory of each, and what fraction of
        it they need.

        The compiler's own account is used, so nothing is computed; if they fit, the compiled function is kept.
        """
        try:
            needed = _bytes_needed(self.compiled(shape, space))
        except jax.errors.JaxRuntimeError as error:  # choosing convolution algorithms on a GPU needs memory too
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False, 4.0
        fraction = needed / min(_free_bytes(device, space) for device in jax.local_devices()[:space])
        if fraction > 1:
            del self._compiled[shape, space]
        return fraction <= 1, fraction

    def compiled(self, shape: Shape, space: int) -> jax.stages.Compiled:
        """The program for inputs of this shape on `space` devices."""
        if (shape, space) not in self._compiled:

            def apply(variables: Any, x: jax.Array) -> jax.Array:
                return self._module.apply(variables, x, train=False).astype(jnp.float32)

            windows = jax.ShapeDtypeStruct(shape, jnp.float32)
            if space == 1:
                jitted = jax.jit(apply)
            else:
                mesh = _space_mesh(space)
                if space not in self._variables:
                    self._variables[space] = jax.device_put(self._variables[1], replicated(mesh))
                images = image_sharding(mesh)
                jitted = jax.jit(apply, in_shardings=(replicated(mesh), images), out_shardings=images)
            self._compiled[shape, space] = jitted.lower(self._variables[space], windows).compile()
        return self._compiled[shape, space]


def _space_mesh(space: int) -> Mesh:
    """The first `space` devices of this process, which share an image plane."""
    return make_mesh({"data": 1, "fsdp": 1, "space": space}, jax.local_devices()[:space])


def _check_variables(checkpoint: Checkpoint, expected: Any) -> None:
    """Compare names and shapes of the stored weights with those that the model would make."""
    found, wanted = (_named_leaves(tree) for tree in (checkpoint.variables, expected))
    for name in sorted(found.keys() | wanted.keys()):
        stored = tuple(found[name].shape) if name in found else "nothing"
        needed = tuple(wanted[name].shape) if name in wanted else "nothing"
        if stored != needed:
            raise UserError(
                f"{checkpoint.path}: the weights are not those of the model in config.model "
                f"({checkpoint.config['model']['name']}): {name} is {stored} where {needed} is expected; "
                "use the checkpoint's own configuration or train again"
            )


def _fingerprint(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    fields = ("source_channels", "target_channels", "normalization")
    described = {field: checkpoint.description.get(field) for field in fields}
    digest.update(json.dumps([checkpoint.config["model"], described], sort_keys=True, default=str).encode())
    for name, leaf in sorted(_named_leaves(checkpoint.variables).items()):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _named_leaves(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(flax.core.unfreeze(tree), sep="/")


def _bytes_needed(compiled: jax.stages.Compiled) -> int:
    """Input, output and everything in between; 0 where the backend gives no account."""
    account = compiled.memory_analysis()
    if account is None:
        return 0
    return account.temp_size_in_bytes + account.argument_size_in_bytes + account.output_size_in_bytes


def _free_bytes(device: jax.Device, space: int) -> int:
    """What one call may use: 90% of a device's free memory; half of a host's (others use it too), of which each of
    `space` devices that are only made of its cores has its share."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats["bytes_in_use"]))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024 // 2 // space
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // space
