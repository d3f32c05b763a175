"""What predicts, as inference sees it: compiled once per shape, with an account of the memory that it needs."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vsjax.errors import UserError
from vsjax.memory import machine_bytes
from vsjax.models.frame import Frame
from vsjax.runtime.checkpoint import Checkpoint
from vsjax.runtime.mesh import image_sharding, make_mesh, replicated
from vsjax.tasks.context import Context
from vsjax.tasks.family import Family
from vsjax.tasks.registry import make_family

_MAKES = ("model", "task", "dtype", "first", "companions")  # sections of a config that decide what is predicted
Shape = tuple[int, int, int, int, int]  # B, Z, Y, X, C


@dataclass(frozen=True)
class Draw:
    """What one draw of a stack is computed with, beside its windows.

    Attributes:
        key: of the stack and the draw.
        space: devices that share Y.
        label: the class of the stack's image; None where it has none.
    """

    key: jax.Array
    space: int = 1
    label: int | None = None


class CompiledFamily:
    """`compiled(windows, origins, draw)` predicts with a checkpoint's weights.

    Attributes:
        family: how it predicts.
        in_depth: slices that it sees.
        out_depth: slices that it predicts.
        in_channels: source channels.
        out_channels: target channels.
        divisor: what Y and X of the input must be multiples of.
        fingerprint: 16 hexadecimal digits that differ if any weight or setting of the model differs.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Build what the checkpoint's configuration names.

        Raises:
            UserError: the configuration is of no family that predicts, or the stored weights are not those of it.
        """
        try:
            self.family: Family = make_family(checkpoint.description.config)
        except UserError as error:
            raise UserError(f"{checkpoint.path}: {error}") from error
        self.in_depth = int(self.family.in_stack_depth)
        self.in_channels = int(self.family.in_channels)
        self.divisor: tuple[int, int] = tuple(int(d) for d in self.family.divisor[1:])
        example = jax.ShapeDtypeStruct((1, self.in_depth, *self.divisor, self.in_channels), jnp.float32)
        expected = jax.eval_shape(self.family.init, jax.random.key(0), example)
        _check_variables(checkpoint, expected)
        output = jax.eval_shape(self._predict, expected, example, *_places(1))
        self.out_depth, self.out_channels = int(output.shape[1]), int(output.shape[4])
        self.fingerprint = fingerprint(checkpoint)
        self._variables = {1: jax.device_put(checkpoint.variables)}
        self._programs: dict[tuple[Shape, int, int, bool], jax.stages.Compiled] = {}

    @property
    def receptive_radius(self) -> int | None:
        """How far it looks from a pixel in Y and X; None if it sees everything."""
        return self.family.receptive_radius

    def with_sampler(self, sampler: Any) -> "CompiledFamily":
        """The same weights with other settings of the family."""
        other = copy.copy(self)
        other.family, other._programs = self.family.with_sampler(sampler), {}
        return other

    def __call__(
        self,
        windows: np.ndarray | jax.Array,
        origins: np.ndarray,
        draw: Draw,
        turns: int = 0,
        region: np.ndarray | None = None,
    ) -> jax.Array:
        """[B, in_depth, Y, X, C] float32 -> [B, out_depth, Y, X, C'] float32.

        `origins` `[B, 3]` and `turns` are those of `Context`, `region` that of `Frame`, None where the images fill the
        windows. `draw.space` devices share Y, which must be a multiple of `space * divisor`; the result lies on them
        likewise.
        """
        space = draw.space
        program = self.program(windows.shape, space, turns, region is not None)
        origins = np.asarray(origins, np.int32)
        classes = len(self.family.classes)  # the number of none of them
        label = np.int32(classes if draw.label is None else draw.label) if classes else None
        if space == 1:
            return program(self._variables[1], jnp.asarray(windows, jnp.float32), origins, draw.key, region, label)
        windows = jax.device_put(windows.astype(np.float32), image_sharding(_space_mesh(space)))
        rest = jax.device_put((origins, draw.key, region, label), replicated(_space_mesh(space)))
        return program(self._variables[space], windows, *rest)

    def fits(self, shape: Shape, space: int = 1, framed: bool = False) -> tuple[bool, float]:
        """Whether inputs of this shape, shared by `space` devices, fit the free memory of each, and what fraction of
        it they need.

        The compiler's own account is used, so nothing is computed; if they fit, the compiled program is kept.
        """
        try:
            needed = _bytes_needed(self.program(shape, space, framed=framed))
        except jax.errors.JaxRuntimeError as error:  # choosing convolution algorithms on a GPU needs memory too
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False, 4.0
        fraction = needed / min(_free_bytes(device, space) for device in jax.local_devices()[:space])
        if fraction > 1:
            self._programs = {key: kept for key, kept in self._programs.items() if key[:2] != (shape, space)}
        return fraction <= 1, fraction

    def program(self, shape: Shape, space: int = 1, turns: int = 0, framed: bool = False) -> jax.stages.Compiled:
        """The program for inputs of this shape on `space` devices; `framed` where images need not fill them."""
        turns = turns if self.family.draws else 0  # without noise it is the same
        key = shape, space, turns, framed
        if key not in self._programs:
            windows = jax.ShapeDtypeStruct(shape, jnp.float32)
            if space == 1:
                shardings = {}
            else:
                mesh = _space_mesh(space)
                if space not in self._variables:
                    self._variables[space] = jax.device_put(self._variables[1], replicated(mesh))
                images, whole = image_sharding(mesh), replicated(mesh)
                shardings = {"in_shardings": (whole, images, whole, whole, whole, whole), "out_shardings": images}
            jitted = jax.jit(self._predict, static_argnums=6, **shardings)
            region = jax.ShapeDtypeStruct((4,), jnp.int32) if framed else None
            label = jax.ShapeDtypeStruct((), jnp.int32) if self.family.classes else None
            lowered = jitted.lower(self._variables[space], windows, *_places(shape[0]), region, label, turns)
            self._programs[key] = lowered.compile()
        return self._programs[key]

    def _predict(
        self,
        variables: Any,
        windows: jax.Array,
        origins: jax.Array,
        key: jax.Array,
        region: jax.Array | None = None,
        label: jax.Array | None = None,
        turns: int = 0,
    ) -> jax.Array:
        frame = None if region is None else Frame(region, windows.shape[2:4])
        labels = None if label is None else jnp.broadcast_to(label, len(windows))
        context = Context(key=key, origin=origins, turns=turns, frame=frame, label=labels)
        return self.family.predict(variables, windows, context).astype(jnp.float32)


def _places(batch: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of the origins of a batch and of a key."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct((batch, 3), jnp.int32), key


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
                f"({checkpoint.description.config['model']['name']}): {name} is {stored} where {needed} is expected; "
                "use the checkpoint's own configuration or train again"
            )


def fingerprint(checkpoint: Checkpoint) -> str:
    """16 hexadecimal digits that differ if any weight or setting of the model differs."""
    digest = hashlib.sha256()
    description, config = checkpoint.description.to_json(), checkpoint.description.config
    makes = {name: config[name] for name in _MAKES if name in config}
    digest.update(json.dumps([makes, description["channels"]], sort_keys=True, default=str).encode())
    for name, leaf in sorted(_named_leaves(checkpoint.variables).items()):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _named_leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
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
    return machine_bytes() // 2 // space
