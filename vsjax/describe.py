"""What an experiment would train, without data: `python -m vsjax.describe --config configs/unext2.py`."""

import sys
from collections.abc import Sequence
from functools import partial

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from vsjax.errors import UserError
from vsjax.program import parse_flags, run_program
from vsjax.runtime.experiment import check_config
from vsjax.runtime.keys import named_key, step_key
from vsjax.runtime.mesh import check_batch, image_sharding, make_mesh, replicated, row_sharding, state_shardings
from vsjax.tasks.registry import make_task, resolve
from vsjax.training.overview import abstract_batch, compile_step, summarise, total_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every network of the experiment's task and what a training step holds."""
    config, compiles = _parse(sys.argv if arguments is None else ["vsjax.describe", *arguments])
    describe(config)
    if compiles:
        _compile(config)


def describe(config: ConfigDict) -> None:
    """Print the networks' parameters and multiply-adds, and the bytes of one training step on one device.

    Raises:
        UserError: a setting does not exist, or sizes do not fit together.
    """
    config = resolve(check_config(config))
    task = make_task(config)
    summaries = summarise(task)
    for summary in summaries:
        print("\n".join(summary.lines()))
    state = jax.eval_shape(task.init, jax.random.key(0), abstract_batch(config))
    samples = config.data.batch_size // config.train.accumulate
    rows = {
        "parameters": total_bytes((state.variables, state.average, state.auxiliary)),
        "optimiser": total_bytes(state.optimizer),
        "gradients": 4 * sum(sum(summary.parameters.values()) for summary in summaries),
        f"kept for the gradient of {samples} samples": samples * sum(summary.kept for summary in summaries),
    }
    for name, size in rows.items():
        print(f"{size / 2**20:12,.1f} MiB  {name}")
    print(f"{sum(rows.values()) / 2**20:12,.1f} MiB  in all; the compiler keeps less or needs more: --compile asks it")


def _compile(config: ConfigDict) -> None:
    """Compile the training step for this machine's devices; `compile_step` logs XLA's account."""
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


def _placed(shapes: object, shardings: object) -> object:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _parse(arguments: Sequence[str]) -> tuple[ConfigDict, bool]:
    arguments, values = list(arguments), flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The experiment.", lock_config=True, flag_values=values, sys_argv=arguments
    )
    compiles = flags.DEFINE_bool("compile", False, "Compile the step, for XLA's account.", flag_values=values)
    if "--help" in arguments:
        print(__doc__, values.get_help(), sep="\n")
        sys.exit(0)
    config, unknown = parse_flags(values, arguments)
    if unknown:
        raise UserError(f"command line: {unknown[0]!r} belongs to no flag")
    if config is None:
        raise UserError("command line: give --config configs/unext2.py")
    return config, compiles.value


if __name__ == "__main__":
    run_program("describe", main)
