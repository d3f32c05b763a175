"""Times, memory and the machine. Plain Python and NumPy: both sides import it."""

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

COPIED = 1 << 28  # bytes of the array by which the bandwidth is measured: no cache holds it
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "viscy", "lightning", "monai", "timm")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of what was measured, its 10th and 90th percentile, and how many there were."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), [10, 50, 90])
    return {"median": float(middle), "p10": float(low), "p90": float(high), "count": len(values)}


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes; it must return when its work is done, not when it is queued."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def best_seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """The fastest of several calls after one more: what the machine can do, where a median says what it does."""
    function()
    return min(seconds(function) for _ in range(repeats))


def resident_bytes() -> int:
    """What this process holds of the machine's memory now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that it has held since its start, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget the peak, so that `peak_bytes` tells that of what follows."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def _status(field: str) -> int:
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines[field].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, which has no /proc


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def copy_rate() -> float:
    """Bytes per second that all cores together move when they copy a large array, read and written both counted."""
    source, target = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    parts = [slice(start, start + COPIED // cores()) for start in range(0, COPIED, COPIED // cores())]
    with ThreadPoolExecutor(cores()) as pool:
        taken = best_seconds(lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
    return 2 * COPIED / taken


def versions() -> dict[str, str]:
    """Of Python and of the libraries that this process could import."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    return {"cpu": _processor(), "cores": cores(), "memory": _memory(), "system": platform.platform()}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
