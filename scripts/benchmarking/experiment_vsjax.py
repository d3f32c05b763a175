"""A family's config as it is measured."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scripts.benchmarking.families import Family
from scripts.benchmarking.inputs import images
from vsjax.data.augment_config import AugmentConfig
from vsjax.data.roles import ChannelRole
from vsjax.runtime.experiment import check_config
from vsjax.tasks.registry import resolve
from vsjax.tasks.task import Task
from vsjax.training.experiment_overview import abstract_batch

STEPS_PER_EPOCH = 100  # of schedules that count epochs


def family_config(request: Mapping[str, Any]) -> ConfigDict:
    """The config of `request["family"]` on its patch and batch, in `request["dtype"]`, on `plate` where there is one;
    with the file's augmentation where `augment` asks for it, otherwise without; `mode` "debug" takes the file's small
    form."""
    family = Family(**request["family"])
    config = importlib.import_module(f"configs.{family.config}").get_config(request.get("mode", ""))
    if not request.get("augment"):
        config.augment = ConfigDict(AugmentConfig().model_dump())
    config.update_from_flattened_dict(dict(family.changes))
    plates = (request["plate"],) if "plate" in request else ()
    config.data.update(patch=tuple(family.patch), val_patch=(), batch_size=family.batch, plates=plates)
    config.update(dtype=request["dtype"], seed=request["seed"])
    return resolve(check_config(config), STEPS_PER_EPOCH)


def synthetic_batch(config: ConfigDict, task: Task) -> dict[str, np.ndarray]:
    """A batch as it would be read, of `inputs.images`, which need no normalisation."""
    shapes = abstract_batch(config)
    batch = {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    channels = {n: len(role.channels) for n, role in task.inputs.roles.items() if isinstance(role, ChannelRole)}
    size, *patch, _ = shapes["source"].shape
    source, target = images(size, patch, channels["source"], channels.get("target", 1), config.seed)
    for name in channels:
        batch[name] = np.moveaxis(source if name == "source" else target, 1, -1)
        batch[f"{name}_scale"] = np.ones_like(batch[f"{name}_scale"])
    return batch


def settings_of(config: ConfigDict, out_depth: int) -> dict[str, Any]:
    """What the other side needs to build the same; `out_depth` are the slices that are predicted."""
    return {
        "model": {name: value for name, value in config.model.to_dict().items() if name != "name"},
        "task": config.task.to_dict(),
        "optimizer": config.optim.to_dict(),
        "roles": config.roles.to_dict(),
        "out_depth": out_depth,
    }
