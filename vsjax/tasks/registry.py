"""The families by name; how a config is completed, and made into a task or into what predicts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vsjax.errors import UserError, shorten
from vsjax.models.registry import model_settings, network_of
from vsjax.tasks.denoising import Denoising, Start
from vsjax.tasks.diffusion import DiffusionTask
from vsjax.tasks.family import Chain, Family
from vsjax.tasks.masked_pretraining import MaskedPretrainingTask
from vsjax.tasks.optimizer import LARGEST_STEP
from vsjax.tasks.parts import chosen_modules
from vsjax.tasks.regression import RegressionTask
from vsjax.tasks.task import MetricSpec, Task, TaskKind

Limits = tuple[tuple[float, float], ...]
TASKS: dict[str, TaskKind] = {
    "regression": RegressionTask,
    "masked_pretraining": MaskedPretrainingTask,
    "diffusion": DiffusionTask,
}


def find_task(name: Any, where: str = "config.task") -> TaskKind:
    """The kind of task that `config.task.name` names; UserError where there is none, which names it by `where`."""
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"{where}.name: {shorten(repr(name))} does not exist; choose one of {', '.join(TASKS)}")
    return TASKS[name]


def make_task(config: ConfigDict, images: NamedSharding | None = None) -> Task:
    """The task of a config that `resolve` has completed.

    Args:
        config: the experiment's.
        images: how volumes `[B, Z, Y, X, C]` are spread over the devices.

    Raises:
        UserError: the task, a model setting or an augmentation does not exist, or sizes do not fit together.
    """
    task = find_task(config.task.name).make(config, images)
    find_metric(task.metrics, config.train.best, config.task.name)
    chosen_modules("load", config.init.load, task.model.parts)  # what is frozen, the task itself asks
    return task


def make_family(config: Mapping[str, Any]) -> Family:
    """What predicts with the weights of a checkpoint with this config. Where the config holds another under `first`,
    that is the stage before: its prediction is seen too (`family.Chain`). Those under `companions` help to draw
    (`inference/companions.py`).

    Raises:
        UserError: the family does not exist or does not predict, or a model setting does not fit.
    """
    family = find_task(config["task"]["name"]).family_of(config)
    if companions := config.get("companions"):
        family = _accompanied(family, companions)
    return Chain(make_family(config["first"]), family) if "first" in config else family


def _accompanied(family: Family, companions: Mapping[str, Any]) -> Family:
    if not isinstance(family, Denoising):
        raise UserError("config.companions: go with a diffusion alone; leave them out")
    if start := companions.get("start"):
        family = replace(family, start=Start(make_family(start["config"]), start["channels"], start["units"]))
    if features := companions.get("features"):
        family = replace(family, encoder=network_of(features["config"]))
    return family


def find_metric(metrics: Mapping[str, MetricSpec], name: str, task: str) -> MetricSpec:
    """The metric that `config.train.best` names, `pearson` or one of its columns (`pearson/nuclei`); UserError where
    the task has none."""
    bare, _, column = name.partition("/")
    if bare not in metrics or (column and column not in metrics[bare].columns):
        known = [*metrics, *(f"{metric}/{column}" for metric, spec in metrics.items() for column in spec.columns)]
        raise UserError(f"config.train.best={name!r} is not a metric of {task}; choose one of {', '.join(known)}")
    return metrics[bare]


def resolve(
    config: ConfigDict, steps_per_epoch: int | None = None, limits: Callable[[], Limits] | None = None
) -> ConfigDict:
    """A copy of the config with what follows from other fields and from the data filled in: the model's channels and
    depths; where the length of an epoch is known, `train.steps` and the optimisers' `warmup_steps`; where the lowest
    and highest value of each normalised target can be asked for, `limits` that are left open.

    Raises:
        UserError: the model's depth is not that of the patch.
    """
    config = ConfigDict(config.copy_and_resolve_references().to_dict())
    depth = config.data.patch[0]
    decided = find_task(config.task.name).decided(config)
    known = model_settings(config.model.name)
    config.model = ConfigDict(
        {
            **{name: value for name, value in decided.items() if name in known},
            **{name: value for name, value in config.model.to_dict().items() if value is not None},
        }
    )
    if config.model.get("in_stack_depth", depth) != depth:
        raise UserError(
            f"config.model.in_stack_depth={config.model.in_stack_depth} differs from the {depth} slices of "
            f"config.data.patch={tuple(config.data.patch)}; set them to the same number"
        )
    for section in _sections(config):
        if "limits" in section and not section.limits and limits is not None:
            section.limits = limits()
    if config.train.epochs and steps_per_epoch:
        config.train.steps = config.train.epochs * steps_per_epoch
        if config.train.steps > LARGEST_STEP:
            raise UserError(
                f"config.train.epochs={config.train.epochs}: at {steps_per_epoch} steps each they are more than "
                f"{LARGEST_STEP} steps; set fewer"
            )
        for section in _sections(config):
            if "warmup_epochs" in section:
                section.warmup_steps = section.warmup_epochs * steps_per_epoch
    return config


def _sections(config: ConfigDict) -> Iterator[ConfigDict]:
    """Every section, those within others too: a task with several networks has several optimisers."""
    for value in config.values():
        if isinstance(value, ConfigDict):
            yield value
            yield from _sections(value)
