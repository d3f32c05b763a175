"""What tasks are made of, from a config that `registry.resolve` completed, and checked: network, inputs, optimiser."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vsjax.data.augmentation import AugmentConfig
from vsjax.data.roles import make_roles
from vsjax.errors import UserError
from vsjax.models.network import Network
from vsjax.models.registry import network_of
from vsjax.schema import read_section
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.optimizer import OptimizerSettings, make_optimizer
from vsjax.tasks.parts import chosen_modules


def descent_parts(config: ConfigDict, images: NamedSharding | None) -> dict[str, Any]:
    """The fields of a `DescentTask`.

    Raises:
        UserError: a setting does not exist, or sizes do not fit together.
    """
    model = network_of(config)
    optim = read_section(OptimizerSettings, config.optim, "config.optim")
    frozen = chosen_modules("freeze", config.init.freeze, model.parts)
    return {
        "model": model,
        "inputs": make_inputs(config, model, images),
        "optimizer": make_optimizer(optim, config.train.steps, model.parts, frozen),
        "average_decay": optim.average_decay,
        "frozen": frozen,
        "accumulate": config.train.accumulate,
    }


def predicting_network(config: Mapping[str, Any], task: str) -> Network:
    """The network of a config; UserError unless it is one that `task` predicts with."""
    network = network_of(config)
    if network.predicts_by != task:
        use = f'set config.task.name="{network.predicts_by}"' if network.predicts_by else "it only gives features"
        raise UserError(f'config.model.name={config["model"]["name"]!r} is no network for "{task}"; {use}')
    return network


def sizes(config: ConfigDict, out_channels: int) -> dict[str, int]:
    """Channels and depths of a network that sees the source's patch and predicts as many slices."""
    depth = config.data.patch[0]
    channels = {"in_channels": len(config.roles.source.channels), "out_channels": out_channels}
    return {**channels, "in_stack_depth": depth, "out_stack_depth": depth}


def make_inputs(config: ConfigDict, model: Network, images: NamedSharding | None) -> Inputs:
    """How batches become the inputs of a network; UserError where a patch does not suit it."""
    patch = tuple(config.data.patch)
    for name in ("patch", "val_patch"):
        _check_divisible(f"config.data.{name}", tuple(config.data[name]) or patch, model.divisor)
    return Inputs(
        roles=make_roles(config.roles),
        augment=read_section(AugmentConfig, config.augment, "config.augment"),
        patch=patch,
        out_depth=model.out_depth,
        sharding=images,
    )


def _check_divisible(name: str, patch: tuple[int, ...], divisors: tuple[int, ...]) -> None:
    for size, divisor, axis in zip(patch, divisors, "ZYX", strict=True):
        if size % divisor:
            raise UserError(
                f"{name}={patch}: {axis}={size} is not divisible by {divisor}, the network's total stride; "
                f"set a multiple of {divisor}"
            )
