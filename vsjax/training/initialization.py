"""Beginning with the weights of another run (pre-training, a published model) instead of random ones."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

from vsjax.errors import UserError
from vsjax.runtime.checkpoint import load_checkpoint
from vsjax.tasks.parts import chosen_modules
from vsjax.tasks.state import TrainState

LOG = logging.getLogger(__name__)
Path = tuple[str, ...]


@dataclass(frozen=True)
class Transfer:
    """What a checkpoint gives to a network.

    Attributes:
        values: arrays by path (`("params", "encoder_0", ...)`) that fit.
        misfits: a line for each layer of the chosen parts that does not fit.
        source: the checkpoint's folder.
    """

    values: dict[Path, np.ndarray]
    misfits: tuple[str, ...]
    source: str


def read_initial(init: ConfigDict, variables: Any, parts: Mapping[str, Sequence[str]]) -> Transfer | None:
    """The weights that `config.init` asks for; None where it names no checkpoint. Nothing is computed.

    Args:
        init: `config.init`.
        variables: shapes of the network's variables.
        parts: of the network (`models/network.py`).

    Raises:
        UserError: a field is none of its choices, the checkpoint cannot be read, nothing of it fits, or frozen layers
            would stay random.
    """
    loaded, frozen = (chosen_modules(field, init[field], parts) for field in ("load", "freeze"))
    if not init.checkpoint:
        if frozen:
            raise UserError(
                f"config.init.freeze={init.freeze!r} would keep random weights; set config.init.checkpoint=runs/a"
            )
        return None
    checkpoint = load_checkpoint(init.checkpoint, init.which or None)
    known = {module for modules in parts.values() for module in modules}
    wanted, given = _flat(variables), _flat(checkpoint.variables)
    unexpected = {path[1] for path in given} - known  # which no part names, so that they are said to be left out
    wanted, given = _of_modules(wanted, loaded), _of_modules(given, {*loaded, *unexpected})
    values = {path: given[path] for path, leaf in wanted.items() if path in given and _fits(given[path], leaf)}
    misfits = _misfits(wanted, given, values)
    if not any(path[0] == "params" for path in values):
        raise UserError(
            f"config.init.checkpoint={init.checkpoint}: no layer of its {init.load} fits config.model "
            f"({misfits[0] if misfits else 'it has none'}); set config.model to a network like {_network(checkpoint)}"
        )
    random = [path for path in _of_modules(_flat(variables), frozen) if path[0] == "params" and path not in values]
    if random:
        raise UserError(
            f"config.init.freeze={init.freeze!r} would keep random weights in {'/'.join(random[0])}, which the "
            "checkpoint does not give; set config.init.freeze='', or a config.model that fits"
        )
    return Transfer(values, misfits, checkpoint.path)


def apply_initial(transfer: Transfer, state: TrainState) -> TrainState:
    """The state with the weights put in, and each misfit in the log; the moving average begins there too."""
    flat = flax.traverse_util.flatten_dict(state.variables)
    flat |= {path: _like(flat[path], value) for path, value in transfer.values.items()}
    LOG.info("%s: %d of %d tensors taken", transfer.source, len(transfer.values), len(flat))
    for misfit in transfer.misfits:
        LOG.warning("%s", misfit)
    variables = flax.traverse_util.unflatten_dict(flat)
    average = jax.tree.map(lambda value: value.copy(), _places_of(state.average, variables))
    return state.replace(variables=variables, average=average)


def _places_of(average: Any, variables: Any) -> Any:
    """What `variables` holds under the paths of `average`."""
    flat = flax.traverse_util.flatten_dict(variables)
    paths = flax.traverse_util.flatten_dict(average)
    return flax.traverse_util.unflatten_dict({path: flat[path] for path in paths})


def _flat(variables: Any) -> dict[Path, Any]:
    """The leaves by path, `(collection, module, ...)`."""
    return flax.traverse_util.flatten_dict(flax.core.unfreeze(variables))


def _of_modules(leaves: dict[Path, Any], modules: Collection[str]) -> dict[Path, Any]:
    return {path: leaf for path, leaf in leaves.items() if path[1] in modules}


def _fits(value: Any, wanted: Any) -> bool:
    return tuple(value.shape) == tuple(wanted.shape)


def _misfits(wanted: dict[Path, Any], given: dict[Path, Any], values: dict[Path, Any]) -> tuple[str, ...]:
    """A line for each layer with tensors that were not taken."""
    layers: dict[Path, dict[str, list[str]]] = {}
    for path in sorted((wanted.keys() | given.keys()) - values.keys()):
        layer, name = path[1:-1], path[-1]
        if path not in given:
            reason = "begins at random, not in the checkpoint"
        elif path not in wanted:
            reason = "left out, not in this network"
        else:
            here, there = (tuple(tree[path].shape) for tree in (wanted, given))
            name, reason = f"{name} {there} for {here}", "begins at random, of another shape"
        layers.setdefault(layer, {}).setdefault(reason, []).append(name)
    return tuple(
        f"{'/'.join(layer)}: {reason} ({', '.join(names)})"
        for layer, reasons in layers.items()
        for reason, names in reasons.items()
    )


def _network(checkpoint: Any) -> str:
    settings = checkpoint.description.config["model"]
    return ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None)


def _like(array: jax.Array, value: Any) -> jax.Array:
    """`value` with the type and the sharding of `array`, whichever processes hold it."""
    value = np.asarray(value, array.dtype)
    return jax.make_array_from_callback(array.shape, array.sharding, lambda index: value[index])
