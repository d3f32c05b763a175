"""vsjax's side of a bare forward pass: the network, jitted, on windows that lie on the device."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarking.device_vsjax import device_report
from scripts.benchmarking.experiment_vsjax import family_config, settings_of
from scripts.benchmarking.floor_vsjax import forward_work, matrix_rates
from scripts.benchmarking.inputs import images
from scripts.benchmarking.side import Work, serve
from vsjax.models.registry import network_of


def prepare(request: Mapping[str, Any]) -> Work:
    """Compile it and call it once."""
    config = family_config(request)
    network = network_of(config)
    source, _ = images(config.data.batch_size, tuple(config.data.patch), network.in_channels, 1, config.seed)
    x = jnp.asarray(np.moveaxis(source, 1, -1))
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(x[:1])
    apply = jax.jit(lambda variables, x: network.apply(variables, x, train=False))
    start = time.perf_counter()
    compiled = apply.lower(variables, x).compile()
    compile_seconds = time.perf_counter() - start

    def run() -> None:
        compiled(variables, x).block_until_ready()

    start = time.perf_counter()
    run()
    report = {
        "compile_seconds": compile_seconds,
        "first_seconds": time.perf_counter() - start,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "settings": settings_of(config, network.out_depth),
        "work": forward_work(network, x.shape),
        "rates": matrix_rates(),
    }
    return Work(run, report, device_report)


if __name__ == "__main__":
    serve(prepare)
