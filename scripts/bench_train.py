"""A training step of each family, measured beside VisCy's: time, peak memory, compilation, share of the floor.

    python -m scripts.bench_train --rows unext2 fcmae --dtype float32 bfloat16
    python -m scripts.bench_train --against viscy --peer-python /path/to/python --json train.json --markdown
    python -m scripts.bench_train --rows unext2 --device-preset gpu

The step is that of `vsjax.train` (the task of a config, jitted, its state donated, AdamW) without loading and without
augmentation; VisCy's is its network, its loss and AdamW, in PyTorch's eager mode. Both see the same arrays."""

import argparse
from collections.abc import Sequence
from typing import Any

from scripts.benchmarking.families import FAMILIES, Family
from scripts.benchmarking.report import add_flags, best_rates, checked, row, show, write
from scripts.benchmarking.rounds import compare, viscy_side, vsjax_side

GPU = {"patch": (5, 384, 384), "batch": 32, "dtype": ["bfloat16"]}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure the rows that the flags name, print and write them."""
    options = _options(arguments)
    rows = []
    for name in options.rows:
        family = FAMILIES[name].with_sizes(options.patch, options.batch)
        for dtype in options.dtype:
            rows.append(measure_step(name, family, dtype, options))
            show(rows[-1])
    write(options, "train", rows)
    return rows


def measure_step(name: str, family: Family, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    request = {"family": family.to_json(), "dtype": dtype, "seed": options.seed, "mode": options.mode}
    sides = [vsjax_side("train", request)]
    if options.against and family.viscy:
        sides.append(viscy_side("train", request, options))
    found = compare(sides, rounds=options.rounds, warmup=options.warmup, repeats=options.repeats)
    found = [{"dtype": dtype, **side} for side in found]
    size = " x ".join([str(family.batch), str(tuple(family.patch))])
    work = f"training step {name}, {size}, {dtype}"
    return row(name, work, found, best_rates(found, on_host=found[0]["device_peak"] is None))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, FAMILIES, default=["unext2"])
    parser.add_argument("--patch", nargs=3, type=int, metavar=("Z", "Y", "X"), help="voxels of a sample")
    parser.add_argument("--batch", type=int, help="samples of a step")
    parser.add_argument("--device-preset", choices=["gpu"], help="gpu: 32 x (5, 384, 384) in bfloat16")
    options = checked(parser, arguments)
    if options.device_preset:
        options.patch, options.batch = options.patch or GPU["patch"], options.batch or GPU["batch"]
        options.dtype = GPU["dtype"]
    return options


if __name__ == "__main__":
    main()
