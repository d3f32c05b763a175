"""Runs the cases: makes each ready in a folder of its own, runs it in a child, and looks at what it left."""

import fcntl
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.fuzzing import facts, foreign, pixels, places, plates, saved, settings, world
from scripts.fuzzing.run import clear, run_trial

CATEGORIES = {
    **plates.CATEGORIES,
    **saved.CATEGORIES,
    **foreign.CATEGORIES,
    **settings.CATEGORIES,
    **places.CATEGORIES,
    **pixels.CATEGORIES,
}


@dataclass(frozen=True)
class Case:
    """A case: it is the same whichever others are run."""

    category: str
    number: int
    seed: int

    def choose(self) -> random.Random:
        """What decides it."""
        return random.Random(f"{self.seed} {self.category} {self.number}")


def spread(categories: Sequence[str], cases: int, seed: int) -> list[Case]:
    """As many cases as asked for, shared evenly by the categories, one of each in turn."""
    whole, rest = divmod(cases, len(categories))
    counts = [whole + (place < rest) for place in range(len(categories))]
    return [
        Case(name, number, seed)
        for number in range(max(counts))
        for name, count in zip(categories, counts, strict=True)
        if number < count
    ]


def run_all(cases: Sequence[Case], work: Path, jobs: int) -> list[dict[str, Any]]:
    """Run cases with several processes, and those that took too long once more alone; results in the cases' order."""
    results = work / "results.jsonl"
    results.unlink(missing_ok=True)
    (work / "next").write_text("0")
    workers = [_start(cases, work, results, number) for number in range(jobs)]
    while workers:
        ended, status = os.wait()
        workers.remove(ended)
        if status:
            for other in workers:
                os.kill(other, signal.SIGTERM)
            sys.exit(f"a worker of the harness ended with status {status}; its message stands above")
    found = {(line["category"], line["number"]): line for line in map(json.loads, results.read_text().splitlines())}
    for key, line in found.items():
        if "hang" in line["faults"]:  # the machine may have been busy
            found[key] = run_case(Case(*key, line["seed"]), world.load(work / "world"), work / "alone")
    return [found[case.category, case.number] for case in cases]


def _start(cases: Sequence[Case], work: Path, results: Path, worker: int) -> int:
    """A process that takes one case after the other until none is left."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        known = world.load(work / "world")
        for number in _numbers(work / "next", len(cases)):
            line = run_case(cases[number], known, work / f"case{worker}")
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if line["faults"]:
                print(describe(line), flush=True)
            elif sys.stderr.isatty() and number % 20 == 0:
                print(f"\r{number} of {len(cases)}", end="", file=sys.stderr, flush=True)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _numbers(counter: Path, end: int) -> Iterator[int]:
    """Numbers that no other process gets."""
    while True:
        with counter.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            number = int(file.read())
            file.seek(0)
            file.write(str(number + 1))
        if number >= end:
            return
        yield number


def run_case(case: Case, known: world.World, folder: Path) -> dict[str, Any]:
    """One case, from its folder to its verdict."""
    clear(folder)
    inside = folder / "files"
    inside.mkdir(parents=True)
    (folder / "neighbour.txt").write_text("nobody may touch this\n")
    try:
        trial = CATEGORIES[case.category](known, inside, case.choose())
    except Exception as error:  # one case that cannot be made must not end all others
        faults = {"traceback": f"of the harness: {type(error).__name__}: {error}"}
        return {
            **asdict(case),
            "words": "cannot be made",
            "faults": faults,
            "accepted": False,
            "line": "",
            "clear": True,
        }
    if trial.sound:  # also where the case is refused: what fails on sound inputs too tells nothing
        facts.ensure_sound(known, trial.sound, folder.with_name(f"{folder.name}.sound"))
    return {**asdict(case), **run_trial(trial, folder)}


def describe(line: dict[str, Any]) -> str:
    """A fault on one line."""
    faults = ", ".join(f"{kind}: {words}" for kind, words in line["faults"].items())
    return f"{line['category']}:{line['number']}  {line['words']}  ->  {faults}"
