"""The training loop, measured beside its own jitted step: what reading, logging and checkpoints add.

    python -m scripts.bench_loop
    python -m scripts.bench_loop --backbone convnextv2_tiny --patch 5 256 256 --json loop.json

`train` itself takes steps on a plate, with the config's augmentation and its log, and the bare step, with the same
augmentation, takes its own on one batch that lies on the device. Each is a process; they take turns. A second run that
saves in every turn tells what a checkpoint costs, which the last line spreads over the steps between two of them."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from typing import Any

from scripts.benchmarking import measure
from scripts.benchmarking.families import Family
from scripts.benchmarking.report import add_flags, checked
from scripts.benchmarking.rounds import ask, compare, vsjax_side

DEFAULT_SAVE_EVERY = 500  # `config.train.save_every`
SHAPE, CHUNKS = (4, 9, 512, 512), (1, 1, 9, 512, 512)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _options(arguments)
    changes = {"model.backbone": options.backbone, "task.loss.scales": 4}  # patches of 128 are too small for five
    family = Family(config="unext2", patch=tuple(options.patch), batch=options.batch, viscy=None, changes=changes)
    turn = options.warmup + options.repeats
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        request = {"family": family.to_json(), "dtype": options.dtype[0], "seed": options.seed, "folder": folder}
        plate = {"positions": 4, "shape": SHAPE, "chunks": CHUNKS}
        request |= ask(vsjax_side("plate", {**request, **plate}), "plate") | {"augment": True}
        sides = [vsjax_side("train", request)]
        sides += [vsjax_side("loop", {**request, "save_every": every}) for every in (DEFAULT_SAVE_EVERY, turn)]
        found = compare(sides, rounds=options.rounds, warmup=options.warmup, repeats=options.repeats)
    for side in found:
        times = [taken for times in side["rounds"] for taken in times]
        side["mean"] = sum(times) / len(times)
    bare, loop, saving = (side["mean"] for side in found)
    for name, side in zip(("bare step", "loop", f"loop that saves every {turn} steps"), found, strict=True):
        turns = ", ".join(f"{sum(times) / len(times):.3f}" for times in side["rounds"])
        print(f"{name}: median {side['seconds']['median']:.3f} s, mean {side['mean']:.3f} s (turns: {turns})")
    checkpoint = max(0.0, saving - loop) * options.repeats
    whole = loop + checkpoint / DEFAULT_SAVE_EVERY
    print(f"a checkpoint takes {checkpoint:.2f} s of the steps beside it")
    print(f"loop over bare step {loop / bare - 1:+.1%}; with a checkpoint every {DEFAULT_SAVE_EVERY} steps "
          f"{whole / bare - 1:+.1%}")  # fmt: skip
    result = {"sides": found, "checkpoint_seconds": checkpoint, "over_bare": whole / bare - 1}
    if options.json:
        options.json.write_text(json.dumps({"machine": measure.machine(), **result}, indent=1) + "\n")
    return result


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, ["loop"], default=["loop"])
    parser.set_defaults(warmup=8, repeats=20)
    add = parser.add_argument
    add("--backbone", default="convnextv2_atto", help="of UNeXt2 (%(default)s)")
    add("--patch", nargs=3, type=int, default=(5, 128, 128), metavar=("Z", "Y", "X"), help="voxels of a crop")
    add("--batch", type=int, default=2, help="crops of a batch (%(default)s)")
    add("--folder", help="where plate and runs are written and deleted again")
    return checked(parser, arguments)


if __name__ == "__main__":
    main()
