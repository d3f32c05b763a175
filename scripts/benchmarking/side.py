"""One side of a comparison: a process that prepares its work and repeats it when it is told.

It is started with its request, a JSON document, as its only argument. It writes one JSON document per line to standard
output: what preparing found, then for each line `{"warmup": n, "repeats": m}` on standard input the times of m calls,
and at `{}` its memory; all that libraries print goes to standard error."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmarking import measure

SETTLE = 0.5  # seconds that the other side's threads have to fall asleep in


@dataclass(frozen=True)
class Work:
    """What a side has prepared.

    Attributes:
        run: one repetition; it returns when its results are there, with the seconds that count or None for all.
        report: what preparing found, for JSON.
        finish: called after the last repetition, for JSON too.
    """

    run: Callable[[], float | None]
    report: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[], Mapping[str, Any]] = dict


def serve(prepare: Callable[[Mapping[str, Any]], Work]) -> None:
    """Prepare what the request asks for and repeat it until told to end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    before = measure.resident_bytes()
    start = time.perf_counter()
    work = prepare(json.loads(sys.argv[1]))
    ready = {"prepare_seconds": time.perf_counter() - start, "versions": measure.versions(), **work.report}
    peak_of_preparing = measure.peak_bytes()
    measure.reset_peak()
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        told = json.loads(line)
        if not told:
            break
        print(json.dumps(repeat(work.run, **told)), file=answers)
    peak_of_rounds = measure.peak_bytes()
    memory = {
        "before": before,
        "after": measure.resident_bytes(),
        "peak_prepare": peak_of_preparing,
        "peak_rounds": peak_of_rounds,
        "peak": max(peak_of_preparing, peak_of_rounds),
    }
    print(json.dumps({"memory": memory, **work.finish()}), file=answers)


def repeat(run: Callable[[], float | None], warmup: int, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after `warmup` others."""
    time.sleep(SETTLE)
    for _ in range(warmup):
        run()
    return [_timed(run) for _ in range(repeats)]


def _timed(run: Callable[[], float | None]) -> float:
    start = time.perf_counter()
    counted = run()
    return time.perf_counter() - start if counted is None else counted
