"""Memory on each device when a large field of view is stained as one image, over 1, 2, 4 and 8 fake devices.

    python -m scripts.memory_table                     # (5, 4096, 4096), UNeXt2-atto; minutes, some GB of memory
    python -m scripts.memory_table --plane 1024        # a quick look

By the account of XLA's compiled program; then it is stained by one device and by eight, and compared."""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np

from vsjax.inference.compiled import CompiledFamily, Draw
from vsjax.models.registry import build_model
from vsjax.runtime.checkpoint import load_checkpoint, save_variables
from vsjax.runtime.description import Description

MODEL = {
    "in_channels": 1,
    "out_channels": 2,
    "in_stack_depth": 5,
    "backbone": "convnextv2_atto",
    "head_pool": True,
}


def main() -> None:
    """Print the table, in Markdown, and how far the results of one and eight devices are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plane", type=int, default=4096, help="pixels in Y and X (%(default)s)")
    parser.add_argument("--only-memory", action="store_true", help="stain nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = random_network(Path(folder))
    shape = (1, 5, options.plane, options.plane, 1)
    print("| devices | image and parameters | stains | in between | all | x devices / one device |")
    print("|--:|--:|--:|--:|--:|--:|", flush=True)
    first = None
    for space in (1, 2, 4, 8):
        account = network.program(shape, space).memory_analysis()
        parts = (account.argument_size_in_bytes, account.output_size_in_bytes, account.temp_size_in_bytes)
        first = first or sum(parts)
        cells = [f"{size / 2**20:,.0f} MiB" for size in (*parts, sum(parts))]
        print(f"| {space} |", " | ".join(cells), f"| {sum(parts) * space / first:.2f} |", flush=True)
    if not options.only_memory:
        compare(network, shape)


def random_network(folder: Path) -> CompiledFamily:
    """UNeXt2-atto in which no parameter is zero, so that GRN has its say."""
    module = build_model("unext2", **MODEL)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 5, 32, 32, 1), np.float32))
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(shapes)
    values = [rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) for leaf in leaves]
    variables = tree.unflatten([value.astype(np.float32) for value in values])
    config = {"model": {"name": "unext2", **MODEL}, "task": {"name": "regression"}, "dtype": "float32"}
    save_variables(folder / "run", variables, Description(config=config))
    return CompiledFamily(load_checkpoint(folder / "run"))


def compare(network: CompiledFamily, shape: tuple[int, int, int, int, int]) -> None:
    """Stain noise with one device and with eight."""
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    results = {}
    for space in (8, 1):
        start = time.monotonic()
        results[space] = np.asarray(network(image, np.zeros((1, 3)), Draw(key=jax.random.key(0), space=space)))
        print(f"{space} devices: {time.monotonic() - start:.0f} s", flush=True)
    scale = results[1].std()
    off = max(abs(a - b).max() for a, b in zip(results[8][0], results[1][0], strict=True))
    print(f"largest difference {off:.1e}, of a standard deviation of {scale:.2f}: {off / scale:.1e}")


if __name__ == "__main__":
    main()
