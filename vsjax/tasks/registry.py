"""Names of tasks in a config, and how a task is made from the config."""

from collections.abc import Callable
from typing import Any

from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vsjax.data.augmentation import AugmentConfig
from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization
from vsjax.losses import check_scales
from vsjax.models.registry import build_model, model_settings
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.masked_pretraining import MaskedPretrainingTask
from vsjax.tasks.optimizer import make_optimizer
from vsjax.tasks.parts import chosen_modules
from vsjax.tasks.regression import RegressionTask
from vsjax.tasks.task import Task


def make_task(config: ConfigDict, images: NamedSharding | None = None) -> Task:
    """The task that `config.task` names.

    Args:
        config: the experiment's.
        images: how volumes `[B, Z, Y, X, C]` are spread over the devices.

    Raises:
        UserError: the task, a model setting or an augmentation does not exist, or sizes do not fit together.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r} does not exist; choose one of {', '.join(TASKS)}")
    task = TASKS[config.task](config, images)
    if config.train.best.split("/")[0] not in task.metrics:
        raise UserError(
            f"config.train.best={config.train.best!r} is not a metric of {config.task}; "
            f"choose one of {', '.join(task.metrics)}"
        )
    return task


def complete_model(config: ConfigDict) -> dict[str, Any]:
    """`config.model` with what the data decides filled in: channels and depths.

    Raises:
        UserError: the model's depth is not that of the patch.
    """
    depth = config.data.patch[0]
    predicted = config.data.source if config.task == "masked_pretraining" else config.data.target
    decided = {
        "in_channels": len(config.data.source),
        "out_channels": len(predicted),
        "in_stack_depth": depth,
        "out_stack_depth": depth,
    }
    known = model_settings(config.model.name)
    settings = {
        **{name: value for name, value in decided.items() if name in known},
        **{name: value for name, value in config.model.to_dict().items() if value is not None},
    }
    if settings.get("in_stack_depth", depth) != depth:
        raise UserError(
            f"config.model.in_stack_depth={settings['in_stack_depth']} differs from the {depth} slices of "
            f"config.data.patch={tuple(config.data.patch)}; set them to the same number"
        )
    return settings


def _regression(config: ConfigDict, images: NamedSharding | None) -> RegressionTask:
    if not config.data.target:
        raise UserError('config.data.target is empty; name the stains, or set config.task="masked_pretraining"')
    if config.loss.ms_dssim:
        check_scales(tuple(config.data.patch)[1:], config.loss.scales)
    return RegressionTask(**_network(config, images), loss=config.loss.to_dict())


def _masked_pretraining(config: ConfigDict, images: NamedSharding | None) -> MaskedPretrainingTask:
    if not 0 < config.mask_ratio < 1:
        raise UserError(f"config.mask_ratio={config.mask_ratio} must lie between 0 and 1")
    network = _network(config, images)
    if network["model"].mask_stride is None:
        raise UserError(
            f'config.model.name={config.model.name!r} cannot be masked; config.task="masked_pretraining" needs "fcmae"'
        )
    return MaskedPretrainingTask(**network, mask_ratio=config.mask_ratio)


def _network(config: ConfigDict, images: NamedSharding | None) -> dict[str, Any]:
    """The network, its inputs and its optimiser, checked: what every task takes."""
    settings = complete_model(config)
    model = build_model(settings.pop("name"), config.dtype, **settings)
    patch = tuple(config.data.patch)
    for field in ("patch", "val_patch"):
        _check_divisible(f"config.data.{field}", tuple(config.data[field]) or patch, model.divisor)
    inputs = Inputs(
        source=Normalization(**config.data.source_normalization),
        target=Normalization(**config.data.target_normalization),
        augment=AugmentConfig.from_config(config.augment),
        patch=patch,
        out_depth=model.out_depth,
        sharding=images,
    )
    frozen = chosen_modules("freeze", config.init.freeze, model.parts)
    optimizer = make_optimizer(config.optim, config.train.steps, frozen)
    return {
        "model": model,
        "inputs": inputs,
        "optimizer": optimizer,
        "average_decay": config.optim.average_decay,
        "frozen": frozen,
        "accumulate": config.train.accumulate,
    }


def _check_divisible(field: str, patch: tuple[int, ...], divisors: tuple[int, ...]) -> None:
    if len(patch) != len(divisors):
        raise UserError(f"{field}={patch} must hold three numbers of voxels, (z, y, x)")
    for size, divisor, axis in zip(patch, divisors, "ZYX", strict=True):
        if size % divisor:
            raise UserError(
                f"{field}={patch}: {axis}={size} is not divisible by {divisor}, the network's total stride; "
                f"set a multiple of {divisor}"
            )


TASKS: dict[str, Callable[[ConfigDict, NamedSharding | None], Task]] = {
    "regression": _regression,
    "masked_pretraining": _masked_pretraining,
}
