"""Where metrics and images of a run go: TensorBoard event files and `metrics.jsonl`, behind clu's method names."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vsjax.disk import writing
from vsjax.schema import to_json

LOG = logging.getLogger(__name__)
LOG_NAME = "metrics.jsonl"
LINE_BEGINS = b'{"step": '


class MetricWriter:
    """Writes scalars to TensorBoard and `metrics.jsonl`, images to TensorBoard and `images/`.

    A run that resumes at `first_step` drops what an interrupted one wrote from that step on, so that every step stands
    in the log once. Events are written at once, not by tensorboardX's thread, which dies silently when the disk is full
    and lets the run hang. Every method raises WriteError where the disk takes no more.
    """

    def __init__(self, workdir: Path, first_step: int) -> None:
        self._workdir = workdir
        self._images = workdir / "images"
        path = workdir / LOG_NAME
        with writing(workdir):
            self._images.mkdir(parents=True, exist_ok=True)
            (workdir / "tensorboard").mkdir(exist_ok=True)
            _keep_before(path, first_step)
            self._lines = path.open("a", buffering=1)  # a line at a time, to be followed
            self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
            self._write_event(step=first_step, session_log=SessionLog(status=SessionLog.START))  # later steps are void

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of `metrics.jsonl`, where NaN is null, and one TensorBoard point per value."""
        values = {name: float(value) for name, value in scalars.items()}
        with writing(self._workdir):
            self._lines.write(to_json({"step": step, **values}).decode() + "\n")
            for name, value in values.items():
                self._write_event(step=step, summary=summary.scalar(name, value))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """RGB images `[Y, X, 3]`, uint8."""
        with writing(self._workdir):
            for name, image in images.items():
                self._write_event(step=step, summary=summary.image(name, image, dataformats="HWC"))
                Image.fromarray(image).save(self._images / f"{name.replace('/', '_')}_{step:07d}.png")

    def flush(self) -> None:
        """Bring everything written so far to disk."""
        with writing(self._workdir):
            self._lines.flush()
            self._board.flush()

    def close(self) -> None:
        """Flush and close the files."""
        with writing(self._workdir):
            self._lines.close()
            self._board.close()

    def _write_event(self, **content: object) -> None:
        self._board.write_event(Event(wall_time=time.time(), **content))


class NullWriter(MetricWriter):
    """What every process but the first writes to: nothing."""

    def __init__(self) -> None:
        pass

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _keep_before(path: Path, step: int) -> None:
    """Drop the lines of `path` after `step`, and those that are none. Needs no space unless some in between are."""
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    steps = [_step_of(line) for line in lines]
    if damaged := sum(found is None for found in steps[:-1]):  # a killed run may leave half of the last one
        LOG.warning("%s: %d damaged lines are dropped", path, damaged)
    kept = b"".join(line for line, found in zip(lines, steps, strict=True) if found is not None and found <= step)
    if content.startswith(kept):
        os.truncate(path, len(kept))
        return
    repaired = path.with_name(f"{path.name}.repaired")
    repaired.write_bytes(kept)
    repaired.replace(path)


def _step_of(line: bytes) -> int | None:
    """The step of a line of the log, None where it is none."""
    try:
        step = json.loads(line)["step"] if line.startswith(LINE_BEGINS) and line.endswith(b"}\n") else None
    except (ValueError, RecursionError):
        return None
    return step if isinstance(step, int) else None
