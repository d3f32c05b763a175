"""`python -m vsjax.preprocess --plate P.zarr`: intensity statistics, written into the plate's attributes.

With `--clahe NAMES --output Q.zarr`: a new plate with these channels equalised beside all the others."""

import argparse
import functools

from tqdm import tqdm

from vsjax.intensity.equalization import Equalization, equalize_plate
from vsjax.intensity.statistics import Statistics, write_statistics
from vsjax.plates.reader import open_plate
from vsjax.program import run_program


def main() -> None:
    """Read the command line; print one table of the statistics, or write the equalised plate."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    if bool(arguments.clahe) != bool(arguments.output):
        parser.error("--clahe and --output belong together: which channels, and the new plate")
    plate = open_plate(arguments.plate)
    if arguments.clahe:
        settings = Equalization(tuple(arguments.clahe), tuple(arguments.kernel), arguments.clip_limit)
        progress = functools.partial(tqdm, unit=" volume")
        equalize_plate(plate, arguments.output, settings, overwrite=arguments.overwrite, progress=progress)
        print(f"{arguments.output}: written; now its statistics: python -m vsjax.preprocess --plate {arguments.output}")
        return
    progress = functools.partial(tqdm, unit=" FOV")
    print(table(write_statistics(plate, arguments.channels, arguments.grid, arguments.workers, progress)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vsjax.preprocess",
        description="Write intensity statistics into a plate's attributes; or, with --clahe, write a new plate.",
    )
    parser.add_argument("--plate", required=True, help="OME-Zarr plate or image; written to: its attributes only")
    parser.add_argument("--channels", nargs="+", help="names of channels (default: all)")
    parser.add_argument("--grid", type=int, default=32, help="distance of the sampled pixels in Y and X (default: 32)")
    parser.add_argument("--workers", type=int, default=8, help="reads under way at once (default: 8)")
    clahe = parser.add_argument_group(
        "equalisation (CLAHE)",
        "Write a new plate: all channels, and NAME_clahe for each that is named; labels and coarser levels are left "
        "out. Interrupted, the same command continues.",
    )
    clahe.add_argument("--clahe", nargs="+", metavar="NAME", help="channels to equalise")
    clahe.add_argument("--output", help="OME-Zarr plate or image to write")
    clahe.add_argument(
        "--kernel", nargs=3, type=int, default=(5, 32, 32), metavar=("Z", "Y", "X"), help="voxels (default: 5 32 32)"
    )
    clahe.add_argument("--clip-limit", type=float, default=0.01, help="0 to 1, more is more contrast (default: 0.01)")
    clahe.add_argument("--overwrite", action="store_true", help="delete the output that is there")
    return parser


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
