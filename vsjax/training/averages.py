"""A run's metrics: averaged over training steps and over the samples of a validation, and judged."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average

from vsjax.errors import UserError
from vsjax.runtime.description import Progress
from vsjax.tasks.task import MetricSpec

Averages = Mapping[str, Average]


def average_batch(
    specs: Mapping[str, MetricSpec], values: Mapping[str, jax.Array], weight: jax.Array
) -> dict[str, Average]:
    """What one batch adds to the averages: of each metric, or of each of its columns as `pearson/nuclei`.

    Args:
        specs: the task's metrics.
        values: `[B]` or `[B, columns]` of each sample.
        weight: `[B]`, 0 for samples that only fill the batch. One that leaves a partial metric undefined has none.
    """
    averages = {}
    for name, spec in specs.items():
        columns = {f"{name}/{column}": values[name][:, i] for i, column in enumerate(spec.columns)}
        for full, value in (columns or {name: values[name]}).items():
            counts = (weight > 0) & jnp.isfinite(value) if spec.partial else weight > 0
            averages[full] = Average.from_model_output(value, mask=counts)
    return averages


def mean_of_batches(specs: Mapping[str, MetricSpec], batches: Iterable[Averages], where: str) -> dict[str, float]:
    """The averages over all batches, and of a metric with columns also their mean; NaN where there was nothing.

    Raises:
        UserError: a metric that every sample has is not finite; `where` is the run and its step.
    """
    total: dict[str, Average] = {}
    for batch in batches:
        batch = jax.device_get(batch)
        total = {name: total[name].merge(average) if total else average for name, average in batch.items()}
    with np.errstate(invalid="ignore"):  # the mean of nothing is NaN
        means = {name: float(average.compute()) for name, average in total.items()}
    for name, spec in specs.items():
        if spec.columns:
            columns = [means[f"{name}/{column}"] for column in spec.columns]
            defined = [value for value in columns if not (spec.partial and math.isnan(value))]
            means[name] = float(np.mean(defined)) if defined else math.nan
        if not spec.partial and not math.isfinite(means[name]):
            raise UserError(
                f"{where}: validation's {name} is {means[name]}, so training stopped; the last checkpoint is older. "
                "Lower config.optim.learning_rate, set config.optim.clip_norm, or look for NaN in the images"
            )
    return means


def mean_of_steps(pending: Sequence[Mapping[str, jax.Array]], done: int, workdir: Path) -> dict[str, float]:
    """The metrics of the steps since the last log, averaged, after checking that each is finite; `done` is the last.

    Raises:
        UserError: one is not; the line names the step.
    """
    steps = jax.device_get(pending)
    for step, values in enumerate(steps, start=done - len(steps) + 1):
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{workdir}: step {step}: {name} is {value}, so training stopped; the last checkpoint is older. "
                    "Lower config.optim.learning_rate, set config.optim.clip_norm, or look for NaN in the images"
                )
    return {name: float(np.mean([values[name] for values in steps])) for name in steps[0]}


def judge(progress: Progress, score: float, spec: MetricSpec, patience: int) -> tuple[Progress, bool]:
    """The run's progress after a validation with this score, and whether it is the best so far; NaN and infinity never
    are. With a patience above 0 the run is finished after so many validations without a better one."""
    best = progress.best
    is_best = math.isfinite(score) and (best is None or (score > best if spec.maximise else score < best))
    stale = 0 if is_best else progress.stale + 1
    return Progress(best=score if is_best else best, stale=stale, finished=0 < patience <= stale), is_best
