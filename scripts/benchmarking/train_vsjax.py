"""vsjax's side of `bench_train`: a task's step as `vsjax.train` compiles it, on a batch that lies on the device."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from scripts.benchmarking.device_vsjax import device_report
from scripts.benchmarking.experiment_vsjax import family_config, settings_of, synthetic_batch
from scripts.benchmarking.floor_vsjax import matrix_rates, training_work
from scripts.benchmarking.side import Work, serve
from vsjax.runtime.keys import named_key, step_key
from vsjax.runtime.mesh import image_sharding, make_mesh, put_batch, replicated, state_shardings
from vsjax.tasks.registry import make_task
from vsjax.tasks.state import TrainState
from vsjax.training.overview import compile_step


def prepare(request: Mapping[str, Any]) -> Work:
    """Compile the step and take one."""
    config = family_config(request)
    mesh = make_mesh(config.mesh)
    task = make_task(config, image_sharding(mesh))
    batch = put_batch(mesh, synthetic_batch(config, task), config.data.batch_size)
    init = partial(task.init, named_key(config.seed, "init"))
    shardings = state_shardings(mesh, jax.eval_shape(init, batch))
    state = jax.jit(init, out_shardings=shardings)(batch)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        return task.step(state, batch, step_key(config.seed, "train", state.step))

    start = time.perf_counter()
    update = compile_step(step, state, batch)
    compile_seconds = time.perf_counter() - start
    account = update.memory_analysis()
    losses = []

    def run() -> None:
        nonlocal state
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))  # waits for all of the step
        jax.block_until_ready(state)

    start = time.perf_counter()
    run()
    report = {
        "compile_seconds": compile_seconds,
        "first_seconds": time.perf_counter() - start,
        "parameters": parameters,
        "temporary_bytes": account.temp_size_in_bytes if account else None,
        "settings": settings_of(config, task.inputs.out_depth),
        "work": training_work(task.model, (config.data.batch_size, *config.data.patch, task.model.in_channels)),
        "rates": matrix_rates(),
    }
    return Work(run, report, lambda: {"losses": losses, **device_report()})


if __name__ == "__main__":
    serve(prepare)
