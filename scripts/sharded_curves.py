"""Loss curves of small networks on meshes of eight fake devices, against one device.

    python -m scripts.sharded_curves --steps 50

All start from the same parameters and see the same batches, augmentation and dropout. What is left is the order in
which sums are added up; `--float64` computes everything in double precision, where the mathematics must agree far
closer if it is the same. One line for each network and mesh; exit status 1 where a curve is further from that of one
device than `--tolerance`."""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8))  # data, fsdp, space


def main() -> None:
    """Compute the curves and compare them."""
    options = _parser().parse_args()
    if options.float64:
        _compute_in_float64()
    import jax

    from scripts.sharded_step import compile_sharded, initial_state, small_config
    from vsjax.runtime.collectives import read_collectives

    found, failures = [], 0
    for network in options.networks:
        config = small_config(network, (5, options.rows, 32))
        config.optim.learning_rate = options.learning_rate
        config.train.steps = max(options.steps, 10)
        initial, reference = initial_state(config), None
        for sizes in ((1, 1, 1), *options.meshes):
            step = compile_sharded(config, sizes, initial)
            collectives = read_collectives(step.compiled.as_text())
            losses = step.losses(options.steps)
            reference = losses if reference is None else reference
            off = abs(losses / reference - 1)
            failures += not off.max() <= options.tolerance
            print(
                f"{network:8s} (data, fsdp, space) = {sizes}: loss {losses[0]:.6f} -> {losses[-1]:.6f}, largest "
                f"relative difference {off.max():.1e} at step {int(off.argmax())}",
                flush=True,
            )
            shapes = [[one.operation, one.bytes, [a.shape for a in one.arrays], one.source] for one in collectives]
            result = {"network": network, "mesh": sizes, "losses": losses.tolist(), "collectives": shapes}
            parameters = jax.tree.leaves(initial.variables["params"])
            result["parameter_bytes"] = sum(leaf.nbytes for leaf in parameters)
            result["parameter_sizes"] = sorted({leaf.size for leaf in parameters})
            found.append(result)
            if options.output:
                options.output.write_text(json.dumps(found))
            jax.clear_caches()
    sys.exit(1 if failures else 0)


def _mesh(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--networks", nargs="+", choices=["unext2", "fcmae"], default=["unext2", "fcmae"])
    parser.add_argument("--meshes", nargs="+", type=_mesh, default=MESHES, help="data,fsdp,space, such as 2,2,2")
    parser.add_argument("--rows", type=int, default=256, help="Y of the patch (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative (%(default)s)")
    parser.add_argument("--float64", action="store_true", help="compute everything in double precision")
    parser.add_argument("--output", type=Path, help="JSON of curves and collective operations")
    return parser


def _compute_in_float64() -> None:
    """Before vsjax is imported: its single precision, which is spelled out at every norm and loss, becomes double."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64


if __name__ == "__main__":
    main()
