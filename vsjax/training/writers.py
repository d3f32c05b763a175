"""Where metrics and images of a run go: TensorBoard event files and `metrics.jsonl`, behind clu's method names."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter


class MetricWriter:
    """Writes scalars to TensorBoard and `metrics.jsonl`, images to TensorBoard and `images/`.

    A run that resumes at `first_step` drops what an interrupted one wrote from that step on, so that every step stands
    in the log once.
    """

    def __init__(self, workdir: Path, first_step: int) -> None:
        self._images = workdir / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        _keep_before(path, first_step)
        self._lines = path.open("a", buffering=1)  # a line at a time, to be followed
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of `metrics.jsonl` and one TensorBoard point per value."""
        values = {name: float(value) for name, value in scalars.items()}
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """RGB images `[Y, X, 3]`, uint8."""
        for name, image in images.items():
            self._board.add_image(name, image, step, dataformats="HWC")
            Image.fromarray(image).save(self._images / f"{name.replace('/', '_')}_{step:07d}.png")

    def flush(self) -> None:
        """Bring everything written so far to disk."""
        self._lines.flush()
        self._board.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        self._lines.close()
        self._board.close()


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
    """Drop the lines of `path` from `step` on, and a last line that a killed run left unfinished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            break
    path.write_text("".join(kept))
