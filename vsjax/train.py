"""Train a model: `python -m vsjax.train --config configs/unext2.py --workdir runs/a --config.data.plates=P.zarr`."""

import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from vsjax.data.loading import open_data
from vsjax.disk import writing
from vsjax.errors import Preempted, UserError
from vsjax.program import run_program
from vsjax.runtime.checkpoint import CheckpointStore, can_go_on
from vsjax.runtime.keys import named_key, step_key
from vsjax.runtime.mesh import (
    batch_rows,
    check_batch,
    check_plane,
    image_sharding,
    make_mesh,
    put_batch,
    replicated,
    state_shardings,
)
from vsjax.runtime.processes import join_processes
from vsjax.tasks.registry import complete_model, make_task
from vsjax.tasks.state import TrainState
from vsjax.training.initialization import apply_initial, read_initial
from vsjax.training.overview import compile_step, describe_model
from vsjax.training.panels import panel
from vsjax.training.preemption import Preemption
from vsjax.training.restart import check_same_config
from vsjax.training.writers import MetricWriter, NullWriter

LOG = logging.getLogger("vsjax.train")
MAXIMISED = ("pearson", "ssim")
Arrays = Mapping[str, jax.Array]


def train(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Train as `config` says, or go on where a killed run with the same `workdir` stopped.

    Returns the metrics of the last validation, or of the last training steps where no FOV validates; none where the run
    was complete before.

    Raises:
        UserError: something the user can put right; nothing has been written yet, or what was saved stays usable.
        Preempted: told to stop by SIGTERM; everything is saved, the same command goes on.
    """
    workdir = Path(workdir).absolute()
    is_first_process = jax.process_index() == 0

    # --- Mesh and task: every device, one program
    with config.unlocked():
        config.model.update(complete_model(config))
    mesh = make_mesh(config.mesh)
    batch_size = config.data.batch_size
    check_batch(mesh, batch_size, config.train.accumulate)
    task = make_task(config, image_sharding(mesh))
    for field in ("patch", "val_patch"):
        check_plane(mesh, f"config.data.{field}", (config.data[field] or config.data.patch)[1], task.model.divisor[1])

    # --- Data, checked before anything is written
    data = open_data(config, batch_rows(mesh, batch_size))
    if config.train.epochs:  # the length of an epoch, and with it the schedule, follows from the data
        config.train.steps = config.train.epochs * data.steps_per_epoch()
        config.optim.warmup_steps = config.optim.warmup_epochs * data.steps_per_epoch()
        task = make_task(config, image_sharding(mesh))
    description = {"config": config.to_dict(), **data.description()}
    first_batch = put_batch(mesh, next(data.training(0)), batch_size)

    # --- State: restored from the newest checkpoint, or made, with the weights of another run where the config says so
    init = partial(task.init, named_key(config.seed, "init"))
    abstract = jax.eval_shape(init, first_batch)
    shardings = state_shardings(mesh, abstract)
    initial = None if can_go_on(workdir) else read_initial(config.init, abstract.variables, task.model.parts)
    store = CheckpointStore(workdir)
    first_step, best = store.latest_step() or 0, None
    if first_step:
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        state, saved = store.restore_last(first_step, target)
        check_same_config(saved["config"], description["config"], workdir)
        state, best = state.replace(step=jax.device_put(jnp.int32(first_step), replicated(mesh))), saved["best"]
        state_of_run = "complete at" if first_step == config.train.steps else "going on from"
        LOG.info("%s: %s step %d of %d", workdir, state_of_run, first_step, config.train.steps)
        if first_step == config.train.steps:
            store.close()
            return {}
    else:
        state = jax.jit(init, out_shardings=shardings)(first_batch)
        state = apply_initial(initial, state) if initial else state
    writer = MetricWriter(workdir, first_step) if is_first_process else NullWriter()
    if is_first_process:
        with writing(workdir):
            describe_model(task, workdir)

    # --- Step, compiled ahead, which gives the state's memory back to it; and evaluation
    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
        return task.step(state, batch, step_key(config.seed, "train", state.step))

    update = compile_step(step, state, first_batch)

    @partial(jax.jit, out_shardings=replicated(mesh))
    def evaluate(state: TrainState, batch: Arrays) -> dict[str, tuple[jax.Array, jax.Array]]:
        values = task.evaluate(state, {name: value for name, value in batch.items() if name != "weight"})
        return {name: _weighted_sum(value, batch["weight"]) for name, value in values.items()}

    @partial(jax.jit, out_shardings=replicated(mesh))
    def show(state: TrainState, batch: Arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
        return tuple(image[0] for image in task.sample(state, batch))

    # --- Loop
    preemption = Preemption()
    fake_devices = jax.default_backend() == "cpu" and jax.local_device_count() > 1  # two steps at once can block these
    done = first_step
    batches = data.training(first_step)
    pending: list[Arrays] = []
    metrics: dict[str, float] = {}
    clock = time.monotonic()
    bar = tqdm(total=config.train.steps, initial=first_step, unit="step", disable=not is_first_process)
    for done in range(first_step + 1, config.train.steps + 1):
        state, step_metrics = update(state, put_batch(mesh, next(batches), batch_size))
        pending.append(step_metrics)
        if fake_devices:
            jax.block_until_ready(step_metrics)
        bar.update()
        log, validate, save = (
            done == config.train.steps or done % every == 0
            for every in (config.train.log_every, config.train.validate_every, config.train.save_every)
        )
        stop = preemption.stops_after(done)
        save = save or stop
        if log or validate or save:
            metrics = _mean_of_steps(pending, done, workdir)
            rate = len(pending) / (time.monotonic() - clock)
            writer.write_scalars(done, {f"train/{k}": v for k, v in metrics.items()} | {"steps_per_second": rate})
            bar.set_postfix(loss=f"{metrics['loss']:.4f}", best=best)
            pending, clock = [], time.monotonic()

        # --- Evaluate
        is_best = False
        if validate and data.validation_crops:
            metrics = _mean_of_batches(
                (evaluate(state, put_batch(mesh, b, batch_size)) for b in data.validation()), config.data.target
            )
            writer.write_scalars(done, {f"val/{name}": value for name, value in metrics.items()})
            sample = show(state, put_batch(mesh, next(iter(data.validation())), batch_size))
            writer.write_images(done, {"sample": panel(*(np.asarray(image) for image in sample))})
            score = metrics[config.train.best]
            is_best = best is None or (score > best if config.train.best in MAXIMISED else score < best)
            best = score if is_best else best
            clock = time.monotonic()

        # --- Save
        if is_best:
            store.save_best(done, state, {**description, "best": best})
        if save:
            writer.flush()
            store.save_last(done, state, {**description, "best": best})
        if stop and done < config.train.steps:
            break
    for resource in (bar, writer, store, preemption):
        resource.close()
    if done < config.train.steps:
        raise Preempted(f"{workdir}: told to stop after step {done}; saved, the same command goes on from there")
    return metrics


def _mean_of_steps(pending: Sequence[Arrays], done: int, workdir: Path) -> dict[str, float]:
    """The metrics of the steps since the last log, averaged, after checking that each is finite."""
    steps = jax.device_get(pending)
    for step, values in enumerate(steps, start=done - len(steps) + 1):
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{workdir}: step {step}: {name} is {value}, so training stopped; the last checkpoint is older. "
                    "Lower config.optim.learning_rate, set config.optim.clip_norm, or look for NaN in the images"
                )
    return {name: float(np.mean([values[name] for values in steps])) for name in steps[0]}


def _weighted_sum(value: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum over the samples and the weight that went into it; a metric that a sample leaves undefined (the correlation
    with a constant patch) does not count."""
    weight = weight.reshape(-1, *[1] * (value.ndim - 1)) * jnp.isfinite(value)
    return jnp.sum(jnp.where(weight > 0, value, 0.0) * weight, axis=0), jnp.sum(weight, axis=0)


def _mean_of_batches(
    batches: Iterable[Mapping[str, tuple[jax.Array, jax.Array]]], channels: Sequence[str]
) -> dict[str, float]:
    """Averages over all samples: of each metric, and of each channel as `pearson/nuclei`."""
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, pair in jax.device_get(batch).items():
            totals[name] = totals.get(name, 0.0) + np.stack(pair)
    means = {name: total[0] / np.maximum(total[1], 1e-9) for name, total in totals.items()}
    result = {name: float(np.mean(mean)) for name, mean in means.items()}
    for name, mean in means.items():
        if np.ndim(mean):
            result |= {f"{name}/{channel}": float(value) for channel, value in zip(channels, mean, strict=True)}
    return result


_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/unext2.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go; give it again to go on.")
_CLUSTER = flags.DEFINE_bool("cluster", False, "One of the processes of a Slurm job step or a TPU pod.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where there is no --cluster.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "The number of this one, from 0, with --coordinator.")


def main() -> None:
    """Train with the flags of the command line."""
    app.define_help_flags()
    try:
        unknown = flags.FLAGS(sys.argv)[1:]
        config = _CONFIG.value and _CONFIG.value.copy_and_resolve_references()  # also fails if the file did not load
    except (flags.Error, AttributeError, TypeError, OSError) as error:  # a config field or file that does not exist
        raise UserError(f"command line: {error}") from error
    if unknown:
        raise UserError(
            f"command line: {unknown[0]!r} belongs to no flag; a value follows its flag after '=' or a space"
        )
    if _WORKDIR.value is None or config is None:
        raise UserError("command line: give --config configs/unext2.py and --workdir runs/a")
    join_processes(_CLUSTER.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    train(config, _WORKDIR.value)


if __name__ == "__main__":
    run_program("train", main)
