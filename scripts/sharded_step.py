"""The training step of a small network on some of the fake devices: what the comparisons of meshes share.

The process that imports this has set XLA_FLAGS=--xla_force_host_platform_device_count before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from configs.common import base_config, channel_role, small_data_augmentation
from vsjax.data.augmentation import AugmentConfig, oversized_patch
from vsjax.runtime.keys import named_key, step_key
from vsjax.runtime.mesh import image_sharding, make_mesh, put_batch, replicated, state_shardings
from vsjax.schema import read_section
from vsjax.tasks.registry import make_task, resolve
from vsjax.tasks.task import Task

NETWORKS = {
    "unext2": {
        "backbone": ((1, 1, 1, 1), (8, 16, 24, 32)),
        "head_expansion_ratio": 1,
        "decoder_conv_blocks": 1,
        "drop_path_rate": 0.1,
        "head_pool": True,
    },
    "fcmae": {"encoder_blocks": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "encoder_drop_path_rate": 0.1},
}
TASKS = {"unext2": "regression", "fcmae": "masked_pretraining"}
ATTO = {
    "unext2": {"backbone": "convnextv2_atto", "head_pool": True},
    "fcmae": {"encoder_blocks": (2, 2, 6, 2), "dims": (40, 80, 160, 320)},
}


@dataclass(frozen=True)
class ShardedStep:
    """A compiled training step with what it takes: `step(state, batch) -> (state, metrics)`."""

    compiled: jax.stages.Compiled
    state: Any
    batches: tuple[Mapping[str, jax.Array], ...]

    def losses(self, steps: int) -> np.ndarray:
        """The loss of each of so many steps, float64 `[steps]`; the state is used up.

        Each step is waited for: fake devices share the threads of one CPU, and two steps at once can block each other.
        """
        state, values = self.state, []
        for number in range(steps):
            state, metrics = self.compiled(state, self.batches[number % len(self.batches)])
            values.append(float(jax.block_until_ready((state, metrics))[1]["loss"]))
        return np.array(values)


def small_config(network: str, patch: tuple[int, int, int], **model: Any) -> ConfigDict:
    """An experiment with this network: UNeXt2 learns two stains, FCMAE what was hidden from it. A batch of 8."""
    config = base_config(network, TASKS[network], **(NETWORKS[network] | model))
    config.data.patch = patch
    config.roles.source = channel_role("Phase", scope="none")
    if TASKS[network] == "regression":
        config.roles.target = channel_role("nuclei", "membrane", scope="none")
        config.task.loss.scales = 2
    config.augment.update(small_data_augmentation(0.3))
    if patch[1] != patch[2]:  # a quarter turn would change the shape
        config.augment.update(rotation="any", rotation_probability=0.0, flip_y_probability=0.5)
    config.optim.update(learning_rate=1e-3, warmup_steps=5)
    config.train.steps = 50
    return config


def synthetic_batch(config: ConfigDict, number: int) -> dict[str, np.ndarray]:
    """Long waves around a grey value as the image, which let a hidden cell be guessed, and two functions of it as the
    stains."""
    rng = np.random.default_rng(number)
    size = config.data.batch_size
    z, y, x = np.indices(
        oversized_patch(read_section(AugmentConfig, config.augment, "config.augment"), tuple(config.data.patch))
    )
    source = rng.normal(size=(size, 1, 1, 1, 1)) + np.zeros((size, *z.shape, 1))
    for _ in range(6):
        phase, along_y, along_x = (rng.uniform(0, high, (size, 1, 1, 1)) for high in (2 * np.pi, 0.15, 0.15))
        source += 0.5 * np.cos(phase + along_y * y + along_x * x + 0.3 * z)[..., None]
    source += 0.1 * rng.normal(size=source.shape)
    batch = {"source": source, "target": np.concatenate([np.tanh(2 * source), np.abs(source)], axis=-1)}
    batch = {role: image for role, image in batch.items() if role in config.roles}
    for role, image in tuple(batch.items()):
        batch[f"{role}_location"] = np.zeros((size, image.shape[-1]))
        batch[f"{role}_scale"] = np.ones((size, image.shape[-1]))
    return {name: value.astype(np.float32) for name, value in batch.items()}


def initial_state(config: ConfigDict) -> Any:
    """The state before the first step, on one device."""
    task = _task(config)
    return jax.jit(partial(task.init, named_key(config.seed, "init")))(synthetic_batch(config, 0))


def compile_sharded(config: ConfigDict, sizes: tuple[int, int, int], initial: Any, pool: int = 4) -> ShardedStep:
    """The step of `vsjax.train` on the first devices.

    Args:
        config: from `small_config`.
        sizes: of the mesh: data, fsdp, space.
        initial: from `initial_state`; it is copied.
        pool: batches, which the steps take in turn.
    """
    devices = jax.devices()[: math.prod(sizes)]
    mesh = make_mesh(dict(zip(("data", "fsdp", "space"), sizes, strict=True)), devices)
    task = _task(config, image_sharding(mesh))
    batches = tuple(put_batch(mesh, synthetic_batch(config, i), config.data.batch_size) for i in range(pool))
    shardings = state_shardings(mesh, initial)
    state = jax.device_put(jax.tree.map(np.asarray, initial), shardings)

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(state: Any, batch: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        return task.step(state, batch, step_key(config.seed, "train", state.step))

    return ShardedStep(step.lower(state, batches[0]).compile(), state, batches)


def _task(config: ConfigDict, images: NamedSharding | None = None) -> Task:
    return make_task(resolve(config), images)
