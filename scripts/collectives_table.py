"""What a training step on eight fake devices sends between them: a table for each mesh and network.

    python -m scripts.collectives_table

Counts and bytes are those of XLA's compiled program: bytes of the results on one device, each operation once. `largest`
is the largest operation and what it carries: gradients and parameters have the shapes of parameters, what is left are
activations (halos, where it is a collective-permute). Nothing is trained, the networks are UNeXt2-atto and an FCMAE of
the same widths."""

import argparse
import math
import os
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# Code that never runs need not be fast.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

import jax  # after the flags

from scripts.sharded_curves import MESHES
from scripts.sharded_step import ATTO, compile_sharded, initial_state, small_config
from vsjax.runtime.collectives import OPERATIONS, Collective, read_collectives, total_bytes


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(ATTO), default=list(ATTO))
    parser.add_argument("--plane", nargs=2, type=int, default=(1024, 64), help="Y and X of a patch (%(default)s)")
    parser.add_argument("--small", action="store_true", help="the networks of the tests")
    options = parser.parse_args()
    print("| network, parameters | data, fsdp, space |", " | ".join(OPERATIONS), "| largest |")
    print("|---|---|" + "--:|" * len(OPERATIONS) + "---|", flush=True)
    for network in options.networks:
        config = small_config(network, (5, *options.plane), **({} if options.small else ATTO[network]))
        initial = initial_state(config)
        leaves = jax.tree.leaves(initial.variables["params"])
        sizes = {leaf.size for leaf in leaves}
        title = f"{network}, {kilobytes(sum(leaf.nbytes for leaf in leaves))}"
        for mesh in MESHES:
            found = read_collectives(compile_sharded(config, mesh, initial, pool=1).compiled.as_text())
            cells = [cell([one for one in found if one.operation == operation]) for operation in OPERATIONS]
            largest = max(found, key=lambda one: one.bytes)
            what = f"{kilobytes(largest.bytes)} {largest.operation}: {content(largest, sizes)}"
            print("|", " | ".join([title, str(mesh), *cells, what]), "|", flush=True)
            jax.clear_caches()


def cell(found: list[Collective]) -> str:
    """Count and bytes, such as `2: 420 kB`."""
    return f"{len(found)}: {kilobytes(total_bytes(found))}" if found else "–"


def content(collective: Collective, parameter_sizes: set[int]) -> str:
    """What it carries, judged by the sizes of its arrays."""
    of_parameters = [array for array in collective.arrays if math.prod(array.shape) in parameter_sizes]
    if sum(array.bytes for array in of_parameters) < collective.bytes / 2:
        return "activation"
    return "gradients" if collective.operation in ("all-reduce", "reduce-scatter") else "parameters"


def kilobytes(size: Any) -> str:
    """In thousands of bytes."""
    return f"{size / 1e3:,.0f} kB" if size >= 1e4 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    main()
