"""What a run is about to train, said once at its start."""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from vsjax.runtime.cost import multiply_adds
from vsjax.runtime.mesh import bytes_per_device
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Task

LOG = logging.getLogger(__name__)


def describe_model(task: Task, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], workdir: Path) -> None:
    """Log the parameters of each top-level module and the multiply-adds of one prediction; the table of every tensor
    goes to `model.txt` in `workdir`."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(variables))
    source, _ = jax.eval_shape(task.inputs.training, jax.random.key(0), batch)
    one = jax.ShapeDtypeStruct((1, *source.shape[1:]), source.dtype)
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(module)) for name, module in shapes["params"].items()}
    model = task.model.with_plain_convolutions()  # products that are written as shifted sums would not be seen
    work = multiply_adds(partial(model.apply, train=False), shapes, one)
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    total = sum(counts.values())
    LOG.info("%s: %s parameters (%s)", type(task.model).__name__, f"{total:,}", parts)
    LOG.info("%.2f G multiply-adds on an input of (Z, Y, X, C) = %s", work / 1e9, one.shape[1:])
    table = parameter_overview.get_parameter_overview(shapes["params"], include_stats=False)
    (workdir / "model.txt").write_text(f"{table}\n{work:,} multiply-adds on (Z, Y, X, C) = {one.shape[1:]}\n")


def compile_step(step: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> jax.stages.Compiled:
    """Compile the jitted training step ahead of its first call, and log how long that took and what memory each device
    needs: parameters (with their moving average and running statistics), optimiser, and what the step computes in
    between, by XLA's own account."""
    start = time.monotonic()
    compiled = step.lower(state, batch).compile()
    LOG.info("training step compiled in %.1f s", time.monotonic() - start)
    account = compiled.memory_analysis()
    sizes = {
        "parameters": bytes_per_device((state.variables, state.average)),
        "optimiser": bytes_per_device(state.optimizer),
        "activations and gradients": account.temp_size_in_bytes if account else None,
    }
    parts = ", ".join(f"{name} {'unknown' if size is None else f'{size:,}'}" for name, size in sizes.items())
    LOG.info("bytes on each of %d devices: %s", len(jax.tree.leaves(state)[0].sharding.device_set), parts)
    return compiled
