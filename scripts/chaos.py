"""Stop training and prediction at random moments, restart them, and compare with runs that nothing disturbed.

    python -m scripts.chaos --kills 20

Each of the kills is one run: it is started, stopped at a random moment, started again with the same command until it
ends, and compared bit for bit with the undisturbed run. Training is stopped by SIGKILL after a random step, by SIGKILL
while a checkpoint is being written, or by SIGTERM, after which it must have saved and end with status 75; its log is
compared too. Prediction is stopped by SIGKILL when a random number of positions is finished, none of which may be
computed again. Moments follow what the run has done, not the clock, so that a busy machine does not move them."""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.program import RESTART
from vsjax.runtime.checkpoint import load_checkpoint
from vsjax.simulation import SimulationConfig, write_plate

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = 10
STEPS = 40
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
DELAY_S = 0.1  # a stop comes up to so much later than what it waits for


def main() -> None:
    """Run the kills and print one line for each; exit with status 1 when a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="disturbed runs of each program (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (%(default)s)")
    parser.add_argument("--programs", nargs="+", choices=["train", "predict"], default=["train", "predict"])
    options = parser.parse_args()
    moments = random.Random(options.seed)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what it leaves out itself
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "xla")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # all of it, so that starting is quick
        config = SimulationConfig(shape=(4, 96, 96), channels=("BF", "nuclei"))
        write_plate(str(work / "cells.zarr"), config, POSITIONS)
        write_statistics(open_plate(work / "cells.zarr"))
        finish(train_command(work, work / "undisturbed"))
        kinds = {"train": kill_training, "predict": kill_prediction}
        if "predict" in options.programs:
            finish(predict_command(work, work / "undisturbed.zarr"))
        for program in options.programs:
            start = time.monotonic()
            same = sum(kinds[program](number, work, moments) for number in range(options.kills))
            seconds = time.monotonic() - start
            print(f"{program}: {same} of {options.kills} identical in {seconds:.0f} s", flush=True)
            if same < options.kills:
                sys.exit(1)


def train_command(work: Path, workdir: Path) -> list[str]:
    """A small but whole training run: augmentation, moving average, validation, checkpoints."""
    flags = {
        "data.plates": work / "cells.zarr",
        "data.batch_size": 2,
        "data.val_fovs": "A/1/0",
        "data.importance_channel": "nuclei",
        "augment.rotation": "right_angles",
        "optim.average_decay": 0.9,
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.validate_every": 10,
        "train.save_every": 5,
    }
    config = [f"--config.{name}={value}" for name, value in flags.items()]
    return ["vsjax.train", "--config=configs/fnet3d.py:debug", f"--workdir={workdir}", *config]


def predict_command(work: Path, output: Path) -> list[str]:
    """Prediction of every position."""
    files = [f"--checkpoint={work / 'undisturbed'}", f"--input={work / 'cells.zarr'}", f"--output={output}"]
    return ["vsjax.predict", "--which=last", "--tta=mean", *files]


def kill_training(number: int, work: Path, moments: random.Random) -> bool:
    """One disturbed training run, stopped in one of three ways; whether it ended as the undisturbed one."""
    run = work / f"run{number}"
    step = moments.randrange(1, STEPS)
    how = ("killed", "told to stop", "killed while saving")[number % 3]
    has_come_far = lambda: any(line["step"] >= step for line in log_of(run)[-1:])  # noqa: E731
    is_saving = lambda: has_come_far() and any("tmp" in path.name for path in run.glob("checkpoints/*/*"))  # noqa: E731
    condition = is_saving if how == "killed while saving" else has_come_far
    signal_ = signal.SIGTERM if how == "told to stop" else signal.SIGKILL
    delay = 0 if how == "killed while saving" else moments.uniform(0, DELAY_S)
    seconds, status = stop(train_command(work, run), condition, delay, signal_)
    has_saved = signal_ is signal.SIGKILL or status == 0 or (status == RESTART and last_step(run) >= step)
    finish(train_command(work, run))
    same = has_saved and log_of(run) == log_of(work / "undisturbed")
    same = same and all(same_checkpoint(work / "undisturbed", run, which) for which in ("last", "best"))
    report("train", number, seconds, same, f"{how} after step {step}, status {status}")
    shutil.rmtree(run)
    return same


def log_of(run: Path) -> list[dict[str, float]]:
    """The whole lines of a run's log, without what depends on the clock; one line for each logged event."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "steps_per_second"} for line in lines]


def last_step(run: Path) -> int:
    """The step of the last whole checkpoint."""
    return max((int(path.name) for path in run.glob("checkpoints/last/*") if path.name.isdigit()), default=0)


def kill_prediction(number: int, work: Path, moments: random.Random) -> bool:
    """One disturbed prediction; whether it ended as the undisturbed one, with nothing computed twice."""
    whole, output = work / "undisturbed.zarr", work / f"stained{number}.zarr"
    target = moments.randrange(POSITIONS)
    condition = lambda: output.exists() and len(finished_files(output)) >= target  # noqa: E731
    seconds, _ = stop(predict_command(work, output), condition, moments.uniform(0, DELAY_S), signal.SIGKILL)
    before = finished_files(output)
    if not is_complete(output):
        finish(predict_command(work, output))
    untouched = all(path.stat().st_mtime_ns == written for path, written in before.values())
    same = untouched and all(
        np.array_equal(first.array().read().result(), second.array().read().result())
        for first, second in zip(open_plate(whole).positions(), open_plate(output).positions(), strict=True)
    )
    report("predict", number, seconds, same, f"killed with {len(before)} positions finished")
    shutil.rmtree(output)
    return same


def is_complete(output: Path) -> bool:
    """Whether the run had marked the whole plate before it was killed."""
    document = output / "zarr.json"
    return document.exists() and bool(json.loads(document.read_text())["attributes"]["vsjax"].get("complete"))


def finished_files(output: Path) -> dict[str, tuple[Path, int]]:
    """A chunk of every finished position with the time it was written."""
    found = {}
    for document in output.glob("*/*/*/zarr.json"):
        if json.loads(document.read_text())["attributes"].get("vsjax", {}).get("finished"):
            chunk = next(path for path in (document.parent / "0" / "c").rglob("*") if path.is_file())
            found[document.parent.relative_to(output).as_posix()] = (chunk, chunk.stat().st_mtime_ns)
    return found


def same_checkpoint(first: Path, second: Path, which: str) -> bool:
    """Whether two runs' checkpoints hold the same numbers, bit for bit."""
    a, b = load_checkpoint(first, which), load_checkpoint(second, which)
    pairs = zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True)
    return a.description.step == b.description.step and all(np.array_equal(*pair) for pair in pairs)


def stop(
    arguments: list[str], condition: Callable[[], bool], delay: float, number: signal.Signals
) -> tuple[float, int]:
    """Start a program and signal it `delay` seconds after `condition` holds; the seconds it lived and its status."""
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, **QUIET) as process:
        while process.poll() is None and not condition():
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        process.wait()
    return time.monotonic() - start, process.returncode


def finish(arguments: list[str]) -> None:
    """Run a program to its end."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{arguments[0]} ended with status {done.returncode}: {done.stderr[-2000:]}")


def report(program: str, number: int, seconds: float, same: bool, remark: str) -> None:
    """One line."""
    result = "identical" if same else "DIFFERENT"
    print(f"{program} {number}: {result} (stopped after {seconds:.1f} s: {remark})", flush=True)


if __name__ == "__main__":
    main()
