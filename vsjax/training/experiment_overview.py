"""What an experiment would train and what a step of it takes, from its config alone, without data."""

from functools import partial

import jax
from ml_collections import ConfigDict

from vsjax.data.augmentation import AugmentConfig, oversized_patch
from vsjax.data.roles import make_roles
from vsjax.runtime.experiment import check_config
from vsjax.runtime.keys import named_key, step_key
from vsjax.runtime.mesh import check_batch, image_sharding, make_mesh, replicated, row_sharding, state_shardings
from vsjax.schema import read_section
from vsjax.tasks.registry import make_task, resolve
from vsjax.training.overview import compile_step, kept_bytes, summarise, total_bytes


def describe_experiment(config: ConfigDict) -> list[str]:
    """Lines: the networks' parameters and multiply-adds, and the bytes of one training step on one device.

    Raises:
        UserError: a setting does not exist, or sizes do not fit together.
    """
    config = resolve(check_config(config))
    task = make_task(config)
    summaries = summarise(task)
    state = jax.eval_shape(task.init, jax.random.key(0), abstract_batch(config))
    kept = sum(kept_bytes(network, task.inputs.patch[1:]) for network in task.networks.values())
    samples = config.data.batch_size // config.train.accumulate
    rows = {
        "parameters": total_bytes((state.variables, state.average, state.auxiliary)),
        "optimiser": total_bytes(state.optimizer),
        "gradients": 4 * sum(sum(summary.parameters.values()) for summary in summaries),
        f"kept for the gradient of {samples} samples": samples * kept,
    }
    lines = [line for summary in summaries for line in summary.lines()]
    lines += [f"{size / 2**20:12,.1f} MiB  {name}" for name, size in rows.items()]
    total = sum(rows.values()) / 2**20
    return [*lines, f"{total:12,.1f} MiB  in all; the compiler keeps less or needs more: --compile asks it"]


def compile_experiment(config: ConfigDict) -> None:
    """Compile the training step for this machine's devices; `compile_step` logs XLA's account. UserError as above."""
    config = check_config(config)
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.train.accumulate)
    config = resolve(config)
    task = make_task(config, image_sharding(mesh))
    batch = abstract_batch(config)
    state = jax.eval_shape(partial(task.init, named_key(config.seed, "init")), batch)
    shardings = state_shardings(mesh, state)

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(state: object, batch: object) -> object:
        return task.step(state, batch, step_key(config.seed, "train", state.step))

    compile_step(step, _placed(state, shardings), _placed(batch, jax.tree.map(lambda _: row_sharding(mesh), batch)))


def abstract_batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch as it is read (`data.pipeline.CropReader`), where stacks are deep enough for the
    augmentation's margin."""
    crop = oversized_patch(read_section(AugmentConfig, config.augment, "config.augment"), tuple(config.data.patch))
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for name, role in make_roles(config.roles).items():
        shapes |= role.shapes(name, config.data.batch_size, crop)
    return shapes


def _placed(shapes: object, shardings: object) -> object:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
