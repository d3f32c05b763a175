"""Kill training and prediction at random moments, restart them, and compare with runs that nothing disturbed.

    python scripts/chaos.py --kills 8

Each of the kills is one run: it is started, stopped by SIGKILL at a random moment (for training, one of them while a
checkpoint is being written), started again with the same command until it ends, and compared bit for bit with the
undisturbed run. For prediction it is also checked that no finished position was computed twice."""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from vsjax.data.plate import open_plate
from vsjax.data.statistics import write_statistics
from vsjax.simulate import SimulationConfig, write_plate
from vsjax.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = 10


def main() -> None:
    """Run the kills and print one line for each; exit with status 1 when a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="disturbed runs of each program (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (%(default)s)")
    parser.add_argument("--programs", nargs="+", choices=["train", "predict"], default=["train", "predict"])
    options = parser.parse_args()
    moments = random.Random(options.seed)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plate = work / "cells.zarr"
        write_plate(
            str(plate), SimulationConfig(shape=(12, 128, 128), channels=("BF", "nuclei", "membrane")), POSITIONS
        )
        write_statistics(open_plate(plate))
        run = work / "undisturbed"
        finish(train_command(plate, run))  # fills the compilation cache, so that kills fall into the run itself
        shutil.rmtree(run)
        length = finish(train_command(plate, run))
        if "train" in options.programs:
            for number in range(options.kills):
                failures += not kill_training(number, plate, run, work / f"run{number}", moments.uniform(0, length))
        if "predict" in options.programs:
            whole = work / "undisturbed.zarr"
            length = finish(predict_command(plate, run, whole))
            for number in range(options.kills):
                output = work / f"stained{number}.zarr"
                # The first part of a run is starting up.
                failures += not kill_prediction(
                    number, plate, run, whole, output, moments.uniform(0.4 * length, length)
                )
    print(f"{len(options.programs) * options.kills - failures} of {len(options.programs) * options.kills} identical")
    sys.exit(failures > 0)


def train_command(plate: Path, workdir: Path) -> list[str]:
    """A small but whole training run: augmentation, moving average, validation, checkpoints."""
    flags = {
        "data.plates": plate,
        "data.patch": (5, 64, 64),
        "data.batch_size": 4,
        "data.val_fovs": "A/1/0",
        "data.importance_channel": "nuclei",
        "augment.rotation": "right_angles",
        "augment.scale_probability": 0,
        "augment.shear_probability": 0,
        "optim.average_decay": 0.9,
        "train.steps": 40,
        "train.log_every": 3,
        "train.validate_every": 10,
        "train.save_every": 5,
    }
    config = [f"--config.{name}={value}" for name, value in flags.items()]
    return ["vsjax.train", "--config=configs/unext2.py:debug", f"--workdir={workdir}", *config]


def predict_command(plate: Path, run: Path, output: Path) -> list[str]:
    """Prediction of every position."""
    return [
        "vsjax.predict",
        f"--checkpoint={run}",
        "--which=last",
        "--tta=mean",
        f"--input={plate}",
        f"--output={output}",
    ]


def kill_training(number: int, plate: Path, undisturbed: Path, run: Path, moment: float) -> bool:
    """One disturbed training run; the first is killed while a checkpoint is being written."""
    writing = run / "checkpoints" / "last"
    is_writing = (lambda: any("tmp" in path.name for path in writing.glob("*"))) if number == 0 else None
    killed = kill(train_command(plate, run), moment, is_writing)
    finish(train_command(plate, run))
    same = all(same_checkpoint(undisturbed, run, which) for which in ("last", "best"))
    report("train", number, killed, same, "checkpoint being written" if number == 0 else "")
    shutil.rmtree(run)
    return same


def kill_prediction(number: int, plate: Path, run: Path, whole: Path, output: Path, moment: float) -> bool:
    """One disturbed prediction."""
    killed = kill(predict_command(plate, run, output), moment)
    before = finished_files(output)
    if len(before) < POSITIONS:
        finish(predict_command(plate, run, output))
    untouched = all(path.stat().st_mtime_ns == written for path, written in before.values())
    same = untouched and all(
        np.array_equal(first.array().read().result(), second.array().read().result())
        for first, second in zip(open_plate(whole).positions(), open_plate(output).positions(), strict=True)
    )
    report("predict", number, killed, same, f"{len(before)} positions were finished")
    return same


def finished_files(output: Path) -> dict[str, tuple[Path, int]]:
    """A chunk of every finished position with the time it was written."""
    names = [folder.relative_to(output) for folder in output.glob("*/*/*") if (folder / "zarr.json").exists()]
    if not names:
        return {}
    positions = (open_plate(output)[str(name)] for name in names)
    finished = [position for position in positions if position.attributes.get("vsjax", {}).get("finished")]
    chunks = {
        position.name: next(
            path for path in (output / position.name).rglob("*") if path.is_file() and "c" in path.parts
        )
        for position in finished
    }
    return {name: (path, path.stat().st_mtime_ns) for name, path in chunks.items()}


def same_checkpoint(first: Path, second: Path, which: str) -> bool:
    """Whether two runs' checkpoints hold the same numbers, bit for bit."""
    a, b = load_checkpoint(first, which), load_checkpoint(second, which)
    pairs = zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True)
    return a.description["step"] == b.description["step"] and all(np.array_equal(*pair) for pair in pairs)


def kill(arguments: list[str], moment: float, condition: Callable[[], bool] | None = None) -> float:
    """Start a program and SIGKILL it after `moment` seconds, or as soon as `condition` holds; the seconds it lived."""
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if condition() if condition else time.monotonic() - start > moment:
                process.kill()
                break
            time.sleep(0.001)
    return time.monotonic() - start


def finish(arguments: list[str]) -> float:
    """Run a program to its end; the seconds it took."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return time.monotonic() - start


def report(program: str, number: int, seconds: float, same: bool, remark: str) -> None:
    """One line."""
    result = "identical" if same else "DIFFERENT"
    print(f"{program} {number}: killed after {seconds:5.1f} s, {result}{f' ({remark})' if remark else ''}", flush=True)


if __name__ == "__main__":
    main()
