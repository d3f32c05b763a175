"""One program in a forked child, with limits on time and memory.

Whoever calls this must have a single thread and no JAX backend: what a fork copies of others' threads is broken."""

import atexit
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

LONGEST_LOG = 1 << 20  # bytes of output that are looked at


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        seconds: of wall time.
        bytes: of memory above what its parent holds.
        file_bytes: of one file that it writes.
    """

    seconds: float = 20.0
    bytes: int = 1 << 30
    file_bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        status: its exit status; None where a signal ended it.
        signal: that ended it, 0 where none did.
        killed_for: "time" or "memory" where a limit was passed, otherwise empty.
        seconds: of wall time.
        peak_bytes: of memory above its parent's.
        stdout, stderr: what it wrote.
    """

    status: int | None
    signal: int
    killed_for: str
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str


def run_child(function: Callable[[], object], folder: Path, logs: Path, limits: Limits | None = None) -> Outcome:
    """Call a function in a child and wait for its end.

    Args:
        function: ends like a program: by returning, `SystemExit` or an exception.
        folder: its working directory.
        logs: folder for what it writes to standard output and error; made where it is not there.
        limits: beyond which it is killed.
    """
    limits = limits or Limits()
    logs.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before, start = _resident(os.getpid()), time.monotonic()
    child = os.fork()
    if child == 0:
        _be_program(function, folder, logs, limits)
    killed_for, status, peak = _watch(child, limits, before, start)
    _kill_group(child)  # what it left behind
    stdout, stderr = ((logs / name).read_bytes()[:LONGEST_LOG].decode(errors="replace") for name in ("out", "err"))
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = None if ended_by else os.WEXITSTATUS(status)
    return Outcome(code, ended_by, killed_for, time.monotonic() - start, max(0, peak - before), stdout, stderr)


def _watch(child: int, limits: Limits, before: int, start: float) -> tuple[str, int, int]:
    """Wait, and kill what passes a limit: for what it was killed, its status, and its largest memory in bytes."""
    killed_for, peak, pause = "", before, 0.001
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return killed_for, status, peak
        peak = max(peak, _resident(child))
        if not killed_for:
            late = time.monotonic() - start > limits.seconds
            killed_for = "memory" if peak - before > limits.bytes else "time" if late else ""
            if killed_for:
                _kill_group(child)
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)


def _resident(process: int) -> int:
    """Bytes of memory of its own that a process and its children have; 0 where it is gone. What they share with files,
    such as libraries, does not count."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))
    return own + (sum(map(_resident, map(int, children))) if process != os.getpid() else 0)


def _kill_group(child: int) -> None:
    for kill in (os.killpg, os.kill):  # the group may not be there yet, or no more
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _be_program(function: Callable[[], object], folder: Path, logs: Path, limits: Limits) -> NoReturn:
    """Never returns: what Python does between its start and its end, without starting Python."""
    status = 1
    try:
        os.setsid()
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        for number, name in ((1, "out"), (2, "err")):
            with open(logs / name, "wb") as log:
                os.dup2(log.fileno(), number)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _call(function)
    except BaseException:  # of this module: it must not return into the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)


def _call(function: Callable[[], object]) -> int:
    """The exit status that the function has as a program, its threads and exit handlers included."""
    status = 0
    try:
        function()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 0xFF
