"""Runs what was made ready: one child, what it changed, and what it is judged as."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.fuzzing import snapshot
from scripts.fuzzing.child import Limits, Outcome, run_child
from scripts.fuzzing.trial import Trial
from scripts.fuzzing.verdict import judge, last_line


def run_trial(trial: Trial, folder: Path) -> dict[str, Any]:
    """Run what is ready in `folder/files`; everything in `folder` is watched."""
    inside, logs = folder / "files", folder.parent / f"{folder.name}.logs"
    if trial.setup is not None:
        made = run_child(trial.setup, inside, logs)
        if made.status:
            return _result(trial, made, [], "", unmade=last_line(made.stderr))
    before = snapshot.take(folder)
    start = time.monotonic()
    outcome = run_child(trial.program, inside, logs, Limits(seconds=trial.seconds * _crowd()))
    after = snapshot.take(folder)
    allowed = trial.may_write if outcome.status == 0 else trial.may_write_always
    changed = snapshot.changes(before, after, _expand(allowed, before, after))
    wrongly = _judge(trial, inside, logs) if outcome.status == 0 else ""
    return _result(trial, outcome, changed, wrongly) | {"whole_seconds": round(time.monotonic() - start, 2)}


def _result(trial: Trial, outcome: Outcome, changed: list[str], wrongly: str, unmade: str = "") -> dict[str, Any]:
    verdict = judge(outcome, changed, wrongly, trial.seconds)
    line = {"words": trial.words, "command": trial.command, **asdict(verdict)}
    if unmade:  # zarr-python does not write such a plate, so nobody has one
        line |= {"faults": {}, "accepted": False, "line": "", "unmade": unmade}
    return line | {
        "seconds": round(outcome.seconds, 2),
        "peak_mib": outcome.peak_bytes >> 20,
        "stderr": outcome.stderr[-3000:],
    }


def _judge(trial: Trial, inside: Path, logs: Path) -> str:
    """Why what was accepted should not have been; in a child, since it reads with threads."""

    def program() -> None:
        print(json.dumps(trial.judge(inside)))

    outcome = run_child(program, inside, logs, Limits(seconds=60, bytes=4 << 30))
    try:
        return json.loads(outcome.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return f"the result cannot be read: {last_line(outcome.stderr) or outcome.killed_for}"


def _expand(paths: Sequence[str], before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Paths in a case's folder; `plate#documents` stands for all zarr documents of a plate."""
    allowed = []
    for path in paths:
        plate, marked, _ = path.partition("#documents")
        top = f"files/{plate}"
        if not marked:
            allowed.append(top)
            continue
        names = ("zarr.json", ".zattrs")
        allowed += [
            p for p in after.keys() | before.keys() if p.startswith(f"{top}/") and p.rpartition("/")[2] in names
        ]
    return allowed


def _crowd() -> float:
    """How much longer everything takes, since others use this machine too; 1 where it has a core for each."""
    return min(10.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def clear(folder: Path) -> None:
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)
