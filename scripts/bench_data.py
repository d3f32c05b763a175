"""Batches for training, measured beside VisCy's data module: samples per second with and without augmentation.

    python -m scripts.bench_data
    python -m scripts.bench_data --against viscy --peer-python /path/to/python --markdown

Crops of (5, 256, 256) of one source and two targets, drawn in proportion to a target's intensity, from images that are
stored in chunks of (1, 1, 9, 512, 512). vsjax reads in threads and augments on the device, both counted; VisCy reads
and augments in worker processes. Both do their standard augmentation, with the same ranges and probabilities."""

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

from scripts.benchmarking.families import Family
from scripts.benchmarking.measure import spread
from scripts.benchmarking.report import add_flags, checked, row, show, write
from scripts.benchmarking.rounds import ask, compare, viscy_side, vsjax_side

ROWS = {"augmented": True, "plain": False}
CHUNK = (1, 1, 9, 512, 512)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure the rows that the flags name, print and write them."""
    options = _options(arguments)
    family = Family(
        config="unext2",
        patch=tuple(options.patch),
        batch=options.batch,
        viscy="UNeXt2",
        changes={"data.importance_channel": "nuclei"},
    )
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        shape = (options.times, CHUNK[2], options.plane, options.plane)
        request = {"family": family.to_json(), "dtype": "float32", "seed": options.seed, "mode": options.mode}
        plate = {"folder": folder, "positions": options.positions, "shape": shape, "chunks": CHUNK}
        request |= ask(vsjax_side("plate", {**request, **plate}), "plate")
        for name in options.rows:
            rows.append(measure_batches(name, family, {**request, "augment": ROWS[name]}, options))
            show(rows[-1])
    write(options, "data", rows)
    return rows


def measure_batches(name: str, family: Family, request: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    sides = [vsjax_side("data", {**request, "batches": options.batches})]
    if options.against:
        other = {"batch": family.batch, "workers": options.peer_workers, "crops_per_stack": options.peer_crops}
        sides.append(viscy_side("data", {**request, **other, "batches": options.peer_batches}, options))
    found = compare(sides, rounds=options.rounds, warmup=0, repeats=options.repeats)
    found = [_per_sample(side) for side in found]
    work = f"data {name}, {family.batch} crops of {family.patch}"
    return row(f"data {name}", work, found, {})


def _per_sample(side: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one sample, since the sides take different numbers of them."""
    samples = side["samples"]
    rounds = [[taken / samples for taken in turn] for turn in side["rounds"]]
    seconds = spread([taken for turn in rounds for taken in turn])
    return {**side, "rounds": rounds, "seconds": seconds, "samples_per_second": 1 / seconds["median"]}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, ROWS, default=list(ROWS))
    add = parser.add_argument
    add("--patch", nargs=3, type=int, default=(5, 256, 256), metavar=("Z", "Y", "X"), help="voxels of a crop")
    add("--batch", type=int, default=8, help="crops of a batch (%(default)s)")
    add("--batches", type=int, default=16, help="of one measurement (%(default)s)")
    add("--peer-batches", type=int, default=4, help="of one measurement of VisCy, which is slower (%(default)s)")
    add("--plane", type=int, default=1024, help="pixels in Y and X of the plate's images (%(default)s)")
    add("--positions", type=int, default=5, help="of the plate, of which one validates (%(default)s)")
    add("--times", type=int, default=4, help="time points of each (%(default)s)")
    add("--folder", help="where the plate is written and deleted again; by default the system's temporary folder")
    add("--peer-workers", type=int, default=2, help="processes of VisCy's data module (%(default)s)")
    add("--peer-crops", type=int, default=1, help="crops that VisCy takes of each stack that it reads (%(default)s)")
    return checked(parser, arguments)


if __name__ == "__main__":
    main()
