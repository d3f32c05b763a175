"""What a run trains and what it takes, said at its start."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from vsjax.data.loading import ExperimentData
from vsjax.data.roles import ChannelRole
from vsjax.memory import give_back
from vsjax.models.network import Network
from vsjax.runtime.cost import multiply_adds
from vsjax.runtime.description import Description, make_description
from vsjax.runtime.mesh import bytes_per_device
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import Task

LOG = logging.getLogger(__name__)


def describe_run(config: ConfigDict, data: ExperimentData) -> Description:
    """What a run's checkpoints say of it.

    Raises:
        UserError: the plate has no statistics of the dataset, or none that are numbers.
    """
    roles = {name: role for name, role in data.roles.items() if isinstance(role, ChannelRole)}
    fields = {
        "config": config.to_dict(),
        "channels": {
            name: {"channels": role.channels, "normalization": role.normalization} for name, role in roles.items()
        },
        "pixel_size_um": data.pixel_size_um(),
        "statistics": data.statistics(),
    }
    return make_description(fields, "config.data.plates")


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    """How large a network is and how much work.

    Attributes:
        name: of the network in its task, and its class.
        parameters: their number in each part.
        shape: (Z, Y, X, C) of one input.
        multiply_adds: of one prediction for it.
        table: the shape of every parameter, as text.
    """

    name: str
    parameters: Mapping[str, int]
    shape: tuple[int, ...]
    multiply_adds: int
    table: str

    def lines(self) -> tuple[str, str]:
        """Parameters; multiply-adds."""
        total = sum(self.parameters.values())
        parts = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        return (
            f"{self.name}: {total:,} parameters ({parts})",
            f"{self.multiply_adds / 1e9:.2f} G multiply-adds on an input of (Z, Y, X, C) = {self.shape}",
        )


def summarise(task: Task) -> tuple[NetworkSummary, ...]:
    """Every network of a task, on its patch; nothing is computed."""
    return tuple(_summarise(name, network, task.inputs.patch[1:]) for name, network in task.networks.items())


def _summarise(name: str, network: Network, plane: tuple[int, int]) -> NetworkSummary:
    network = network.with_plain_convolutions()  # products that are written as shifted sums would not be seen
    one = network.example(plane)
    variables = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), *one)
    params = variables["params"]
    parts = {
        part: sum(leaf.size for module in modules for leaf in jax.tree.leaves(params.get(module, {})))
        for part, modules in network.parts.items()
    }
    return NetworkSummary(
        name=f"{name} {type(network).__name__}",
        parameters=parts,
        shape=one[0].shape[1:],
        multiply_adds=multiply_adds(partial(network.apply, train=False), variables, *one),
        table=parameter_overview.get_parameter_overview(params, include_stats=False),
    )


def kept_bytes(network: Network, plane: tuple[int, int]) -> int:
    """Bytes of what the forward pass keeps of one sample for the gradient, the parameters apart; the compiler may keep
    less, and needs room to work besides."""
    network = network.with_plain_convolutions()
    one = network.example(plane)
    variables = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), *one)

    def pullback(variables: Any, *one: jax.Array) -> Any:
        others = {name: value for name, value in variables.items() if name != "params"}

        def apply(params: Any) -> jax.Array:
            rngs = {"dropout": jax.random.key(0)}
            x, _ = network.apply({"params": params, **others}, *one, train=True, rngs=rngs, mutable=list(others))
            return x

        return jax.vjp(apply, variables["params"])[1]

    return max(0, total_bytes(jax.eval_shape(pullback, variables, *one)) - total_bytes(variables["params"]))


def total_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree, or of what their shapes say."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def describe_model(task: Task, workdir: Path) -> None:
    """Log the parameters of each network's parts and the multiply-adds of one prediction; the table of every tensor
    goes to `model.txt` in `workdir`."""
    summaries = summarise(task)
    for summary in summaries:
        for line in summary.lines():
            LOG.info("%s", line)
    (workdir / "model.txt").write_text("\n".join(_text(summaries)))


def _text(summaries: Iterable[NetworkSummary]) -> Iterable[str]:
    for summary in summaries:
        yield f"{summary.name}\n{summary.table}"
        yield f"{summary.multiply_adds:,} multiply-adds on (Z, Y, X, C) = {summary.shape}\n"


def compile_step(step: Any, state: TrainState, batch: Mapping[str, jax.Array]) -> jax.stages.Compiled:
    """Compile the jitted training step ahead of its first call, and log how long that took and what memory each device
    needs: parameters (with their moving average and running statistics), optimiser, and what the step computes in
    between, by XLA's own account."""
    start = time.monotonic()
    compiled = step.lower(state, batch).compile()
    give_back()
    LOG.info("training step compiled in %.1f s", time.monotonic() - start)
    account = compiled.memory_analysis()
    sizes = {
        "parameters": bytes_per_device((state.variables, state.average, state.auxiliary)),
        "optimiser": bytes_per_device(state.optimizer),
        "activations and gradients": account.temp_size_in_bytes if account else None,
    }
    parts = ", ".join(f"{name} {'unknown' if size is None else f'{size:,}'}" for name, size in sizes.items())
    LOG.info("bytes on each of %d devices: %s", len(jax.tree.leaves(state)[0].sharding.device_set), parts)
    return compiled
