"""Start the sides of a comparison and let them take turns."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarking.measure import spread

ROOT = Path(__file__).resolve().parents[2]
Asked = tuple[str, Mapping[str, Any], str]  # module, request, Python
SHOWN = 3000  # characters of what a side that failed has said


class SideFailed(RuntimeError):
    """A side ended before it answered."""


class Side:
    """A process of `side.py`, its answers and the times of its rounds."""

    def __init__(self, module: str, request: Mapping[str, Any], python: str = sys.executable) -> None:
        """Start it and wait until it has prepared its work."""
        self.name = module
        self.times: list[list[float]] = []
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [python, "-m", module, json.dumps(request)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes)
        self.report = self._answer()

    def round(self, warmup: int, repeats: int) -> None:
        """One turn."""
        self._tell({"warmup": warmup, "repeats": repeats})
        self.times.append(self._answer())

    def end(self) -> dict[str, Any]:
        """Let it end: all that is known of it."""
        self._tell({})
        last = self._answer()
        self._process.wait()
        every = [value for values in self.times for value in values]
        return {**self.report, **last, "seconds": spread(every), "rounds": self.times}

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _tell(self, what: Mapping[str, Any]) -> None:
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._said.seek(0)
        raise SideFailed(f"{self.name} ended with {self._process.returncode}: {self._said.read()[-SHOWN:]}")


def vsjax_side(work: str, request: Mapping[str, Any]) -> Asked:
    """Ours: `WORK_vsjax.py` in this Python."""
    return f"scripts.benchmarking.{work}_vsjax", request, sys.executable


def viscy_side(work: str, request: Mapping[str, Any], options: argparse.Namespace) -> Asked:
    """Theirs: `WORK_viscy.py` in the Python that the flags name, compiled or not as they say."""
    return f"scripts.benchmarking.{work}_viscy", {**request, "compiled": options.compiled}, options.peer_python


def compare(sides: Sequence[Asked], *, rounds: int, warmup: int, repeats: int) -> list[dict[str, Any]]:
    """What each side measures, in turns: ABAB. Sides prepare one after the other. What the first one reports as
    `settings`, if it does, is added to the requests of the others, which then build the same."""
    started: list[Side] = []
    try:
        for module, request, python in sides:
            shared = {key: started[0].report[key] for key in ("settings",) if started and key in started[0].report}
            started.append(Side(module, {**request, **shared}, python))
        for _ in range(rounds):
            for side in started:
                side.round(warmup, repeats)
        return [side.end() for side in started]
    finally:
        for side in started:
            side.kill()


def ask(asked: Asked, *keys: str) -> dict[str, Any]:
    """Of what a side reports that has only something to prepare, these fields."""
    side = Side(*asked)
    try:
        return {key: side.report[key] for key in keys}
    finally:
        side.kill()
