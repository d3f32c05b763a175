"""`python -m vsjax.preprocess --plate P.zarr`: intensity statistics, written into the plate's attributes."""

import argparse
import functools

from tqdm import tqdm

from vsjax.data.plate import open_plate
from vsjax.data.statistics import Statistics, write_statistics
from vsjax.program import run_program


def main() -> None:
    """Read the command line, compute, write, print one table."""
    parser = argparse.ArgumentParser(prog="python -m vsjax.preprocess", description=__doc__)
    parser.add_argument("--plate", required=True, help="OME-Zarr plate or image; written to: its attributes only")
    parser.add_argument("--channels", nargs="+", help="names of channels (default: all)")
    parser.add_argument("--grid", type=int, default=32, help="distance of the sampled pixels in Y and X (default: 32)")
    parser.add_argument("--workers", type=int, default=8, help="reads under way at once (default: 8)")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    statistics = write_statistics(
        open_plate(arguments.plate),
        arguments.channels,
        arguments.grid,
        arguments.workers,
        progress=functools.partial(tqdm, unit=" FOV"),
    )
    print(table(statistics))


def table(statistics: dict[str, Statistics]) -> str:
    """A table of dataset statistics, one line per channel."""
    fields = ("median", "iqr", "mean", "std", "min", "max", "p1", "p99")
    width = max(len("channel"), *(len(name) for name in statistics))
    lines = [f"{'channel':<{width}}" + "".join(f"{field:>12}" for field in fields)]
    for name, values in statistics.items():
        lines.append(f"{name:<{width}}" + "".join(f"{values[field]:>12.5g}" for field in fields))
    return "\n".join(lines)


if __name__ == "__main__":
    run_program("preprocess", main)
