"""The only training loop, for every family: read it from top to bottom. `python -m vsjax.train` calls it."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from tqdm import tqdm

from vsjax.data.loading import open_data
from vsjax.disk import alone_in, writing
from vsjax.errors import Preempted
from vsjax.memory import check_memory
from vsjax.runtime.checkpoint import CheckpointStore
from vsjax.runtime.description import Progress
from vsjax.runtime.experiment import check_config
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
from vsjax.tasks.registry import find_metric, make_task, resolve
from vsjax.tasks.state import TrainState
from vsjax.training.averages import Averages, average_batch, judge, mean_of_batches, mean_of_steps
from vsjax.training.initialization import apply_initial, read_initial
from vsjax.training.overview import compile_step, describe_model, describe_run, total_bytes
from vsjax.training.panels import panel
from vsjax.training.preemption import Preemption
from vsjax.training.restart import check_best, check_same_config, check_workdir
from vsjax.training.writers import MetricWriter, NullWriter

LOG = logging.getLogger(__name__)
STEPS_AHEAD = 2  # that are queued on the device while one is waited for: it never idles, and the bar shows what is done
QUICK = {"xla_backend_optimization_level": 2}  # compiles what runs once in a third of the time, to the same numbers
Arrays = Mapping[str, jax.Array]


def train(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Train as `config` says, or resume a killed run with the same `workdir`.

    Returns the metrics of the last validation, or of the last training steps where no FOV validates; none where the run
    was complete before.

    Raises:
        UserError: something the user can put right; nothing has been written yet, or what was saved stays usable.
        Preempted: told to stop by SIGTERM; everything is saved, the same command resumes.
    """
    config = check_config(config)
    workdir = check_workdir(workdir, config.data.plates, config.init.checkpoint)
    with ExitStack() as resources:  # closed in turn, whatever happens
        is_first_process = jax.process_index() == 0

        # --- Mesh and task: every device, one program; all sizes are checked before data are touched
        mesh = make_mesh(config.mesh)
        batch_size = config.data.batch_size
        check_batch(mesh, batch_size, config.train.accumulate)
        task = make_task(resolve(config), image_sharding(mesh))
        for name in ("patch", "val_patch"):
            rows = (config.data[name] or config.data.patch)[1]
            check_plane(mesh, f"config.data.{name}", rows, task.model.divisor[1])

        # --- Data, checked before anything is written; the length of an epoch, and with it the schedule, follows
        data = open_data(config, task.inputs.out_depth, batch_rows(mesh, batch_size))
        config = resolve(config, data.steps_per_epoch(), partial(data.limits, "target"))
        task = make_task(config, image_sharding(mesh))
        judged_by = find_metric(task.metrics, config.train.best, config.task.name)
        description = describe_run(config, data)
        first_batch = put_batch(mesh, data.first_batch(), batch_size)

        # --- State: restored from the newest checkpoint, or made, with another run's weights where the config says so
        init = partial(task.init, named_key(config.seed, "init"))
        abstract = jax.eval_shape(init, first_batch)
        needed = total_bytes(abstract) // jax.process_count()
        check_memory("config.model, with its optimiser,", needed, "set smaller sizes in config.model")
        shardings = state_shardings(mesh, abstract)
        preemption = resources.enter_context(Preemption())  # heeded until the last checkpoint is on disk
        store = resources.enter_context(closing(CheckpointStore(workdir)))
        first_step, progress = store.latest_step() or 0, Progress()
        initial = None if first_step else read_initial(config.init, abstract.variables, task.model.parts)
        if first_step:
            saved = store.describe_last(first_step)
            check_same_config(saved.config, config.to_dict(), workdir)
            progress = saved.progress
            state_of_run = "complete at" if progress.finished else "resuming from"
            LOG.info("%s: %s step %d of %d", workdir, state_of_run, first_step, config.train.steps)
            if progress.finished:
                return {}
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
            state = store.restore_last(first_step, target)
            state = state.replace(step=jax.device_put(jnp.int32(first_step), replicated(mesh)))
        else:
            check_best(store.describe_best(), config.to_dict(), workdir)
            state = jax.jit(init, out_shardings=shardings, compiler_options=QUICK)(first_batch)
            state = apply_initial(initial, state) if initial else state
        if is_first_process:
            with writing(workdir):
                resources.enter_context(alone_in(workdir))
                describe_model(task, workdir)
        writer = MetricWriter(workdir, first_step) if is_first_process else NullWriter()
        resources.enter_context(closing(writer))

        # --- Step, compiled ahead, which gives the state's memory back to it; and evaluation
        @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
        def step(state: TrainState, batch: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
            return task.step(state, batch, step_key(config.seed, "train", state.step))

        update = compile_step(step, state, first_batch)

        @partial(jax.jit, out_shardings=replicated(mesh))
        def evaluate(state: TrainState, batch: Arrays, number: int) -> Averages:
            values = task.evaluate(state, batch, step_key(config.seed, "evaluate", number))
            return average_batch(task.metrics, values, batch["weight"])

        @partial(jax.jit, out_shardings=replicated(mesh))
        def show(state: TrainState, batch: Arrays) -> dict[str, jax.Array]:
            images = task.sample(state, batch, step_key(config.seed, "evaluate", 0))
            return {name: image[0] for name, image in images.items()}

        # --- Loop
        fake_devices = jax.default_backend() == "cpu" and jax.local_device_count() > 1
        ahead = 0 if fake_devices else STEPS_AHEAD  # two steps at once can block these
        done = first_step
        batches = data.training(first_step)
        queued: deque[Arrays] = deque()
        pending: list[Arrays] = []
        metrics: dict[str, float] = {}
        clock = time.monotonic()
        bar = tqdm(total=config.train.steps, initial=first_step, unit="step", disable=not is_first_process)
        resources.enter_context(bar)
        while done < config.train.steps and not progress.finished:
            done += 1
            state, step_metrics = update(state, put_batch(mesh, next(batches), batch_size))
            pending.append(step_metrics)
            queued.append(step_metrics)
            log, validate, save = (
                done == config.train.steps or done % every == 0
                for every in (config.train.log_every, config.train.validate_every, config.train.save_every)
            )
            while len(queued) > (0 if log or validate or save else ahead):
                jax.block_until_ready(queued.popleft())
                bar.update()
            stop = preemption.stops_after(done)
            save = save or stop
            if log or validate or save:
                metrics = mean_of_steps(pending, done, workdir)
                rate = len(pending) / (time.monotonic() - clock)
                writer.write_scalars(done, {f"train/{k}": v for k, v in metrics.items()} | {"steps_per_second": rate})
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", best=progress.best)
                pending, clock = [], time.monotonic()

            # --- Evaluate
            is_best = False
            if validate and data.validation_crops:
                found = (
                    evaluate(state, put_batch(mesh, batch, batch_size), number)
                    for number, batch in enumerate(data.validation())
                )
                metrics = mean_of_batches(task.metrics, found, f"{workdir}: step {done}")
                writer.write_scalars(done, {f"val/{name}": value for name, value in metrics.items()})
                images = jax.device_get(show(state, put_batch(mesh, next(iter(data.validation())), batch_size)))
                writer.write_images(done, {"sample": panel(images)})
                progress, is_best = judge(progress, metrics[config.train.best], judged_by, config.train.patience)
                clock = time.monotonic()
            if done == config.train.steps:
                progress = progress.model_copy(update={"finished": True})

            # --- Save
            description = description.at(done, progress)
            if is_best:
                store.save_best(state, description)
            if save or progress.finished:
                writer.flush()
                store.save_last(state, description)
            if stop and not progress.finished:
                raise Preempted(f"{workdir}: told to stop after step {done}; saved, the same command resumes there")
        if done < config.train.steps:
            LOG.info("%s: ended early, %d validations after the best one", workdir, progress.stale)
        return metrics
