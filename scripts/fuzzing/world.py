"""Sound plates, runs, weights and files: every mutation begins from a copy of one of these.

cells04.zarr, cells05.zarr   two positions with two time points, labels and statistics, in NGFF 0.4 and 0.5
run/, half_run/              a trained network, its best and last checkpoint; a run that is not at its end
stained.zarr, half.zarr      the run's predictions of cells05.zarr; half of them, as an interrupted run leaves them
simulated.zarr               of `vsjax.simulate`
weights.ckpt, weights.pth, weights.safetensors    the run's network as VisCy writes it
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (2, 2, 2, 16, 16)  # T, C, Z, Y, X
POSITIONS = ("A/1/0", "B/2/0")
CHANNELS = ("BF", "nuclei")
PLATES = ("cells04.zarr", "cells05.zarr")
CONFIG = f"{ROOT}/configs/fnet3d.py:debug"
STEPS = 3
FIELDS = {
    "model.depth": 1,
    "model.mult_chan": 8,
    "data.plates": "cells05.zarr",
    "data.patch": "(2,16,16)",
    "data.batch_size": 2,
    "data.val_fovs": "B/2/0",
    "optim.average_decay": 0.9,
    "optim.warmup_steps": 0,
    "train.steps": STEPS,
    "train.log_every": 1,
    "train.validate_every": 2,
    "train.save_every": 2,
}


@dataclass(frozen=True)
class World:
    """Where the sound inputs lie, and what is known of them.

    Attributes:
        folder: of the inputs.
        facts: what `build` found: programs' flags, documents' classes, results of the unmutated commands.
    """

    folder: Path
    facts: dict[str, Any]

    def copy(self, folder: Path, *names: str) -> None:
        """Put copies of inputs into a case's folder, and files beside them that nobody may touch."""
        for name in names:
            source = self.folder / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        for neighbour in (folder / "neighbour.txt", folder / "out" / "neighbour.txt"):
            neighbour.parent.mkdir(exist_ok=True)
            neighbour.write_text("nobody may touch this\n")

    def sound(self, name: str) -> dict[str, Any]:
        """The result, time and memory of a command on sound inputs (`facts.ensure_sound` found them)."""
        return json.loads(self.sound_file(name).read_text())

    def sound_file(self, name: str) -> Path:
        """Where that is kept."""
        return self.folder.parent / f"{name}.sound.json"

    def moved(self, document: Path, folder: Path) -> None:
        """Let a document that tells where its inputs lie tell of a case's folder."""
        document.write_bytes(document.read_bytes().replace(str(self.folder).encode(), str(folder).encode()))


def train_arguments(fields: dict[str, Any] | None = None, workdir: str = "run") -> list[str]:
    """The command that made the run; `fields` replace some of its config's."""
    return ["train", f"--config={CONFIG}", f"--workdir={workdir}", *config_flags({**FIELDS, **(fields or {})})]


def config_flags(fields: dict[str, Any]) -> list[str]:
    """`--config.a.b=value`."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def build(folder: Path) -> None:
    """Make all of it in an empty folder, the working directory."""
    from scripts.fuzzing import programs

    _write_plates()
    for plate in PLATES:
        programs.call(["preprocess", "--plate", plate, "--grid", "1"])
    programs.call(train_arguments())
    programs.call(["predict", "--checkpoint", "run", "--input", "cells05.zarr", "--output", "stained.zarr"])
    _check_alive("stained.zarr")
    _halve(shutil.copytree("stained.zarr", "half.zarr"))
    programs.call(["simulate", "--output", "simulated.zarr", *SIMULATED])
    _write_weights()


SIMULATED = ["--positions", "1", "--shape", "2", "16", "16", "--pixel-size", "2", "1", "1", "--cells", "1",
             "--channels", "BF", "nuclei"]  # fmt: skip


def _write_plates() -> None:
    from vsjax.plates.writer import create_plate

    for plate, version in zip(PLATES, ("0.4", "0.5"), strict=True):
        writer = create_plate(plate, position_names=POSITIONS, ngff_version=version)
        for number, name in enumerate(POSITIONS):
            position = writer.create_position(
                name, shape=SHAPE, dtype=np.uint16, channel_names=list(CHANNELS), pixel_size_um=(1, 0.5, 0.5)
            )
            random = np.random.default_rng(number)
            position.array().write(random.integers(100, 1000, SHAPE, np.uint16)).result()
            labels = random.integers(0, 9, (SHAPE[0], 1, *SHAPE[2:]), np.int32)
            writer.create_label(name, "nuclei", labels.shape, labels.dtype).write(labels).result()


def build_half() -> None:
    """The run that was told to stop after its second step."""
    from scripts.fuzzing import programs
    from vsjax.errors import Preempted
    from vsjax.training import loop

    class Stopped(loop.Preemption):
        def stops_after(self, step: int) -> bool:
            return step == 2

    sound, loop.Preemption = loop.Preemption, Stopped
    with contextlib.suppress(Preempted):
        programs.call(train_arguments(workdir="half_run"))
    loop.Preemption = sound


def _check_alive(plate: str) -> None:
    """A network whose channels have all died predicts the same of every image: no wrong pixel would be seen in it."""
    import zarr

    one, other = (np.asarray(zarr.open_array(Path(plate, name, "0"), mode="r")[...]) for name in POSITIONS)
    if np.mean(one != other) < 0.9:
        raise ValueError(f"{plate}: the predictions of different images are the same: choose another seed or width")


def _halve(plate: str) -> None:
    """As if the second position had not been begun, by the records alone."""
    for name, undone in (("", {"complete": False}), (POSITIONS[1], {"finished": False, "finished_time_points": 1})):
        document = Path(plate, name, "zarr.json")
        content = json.loads(document.read_text())
        content["attributes"]["vsjax"].update(undone)
        document.write_text(json.dumps(content))


def _write_weights() -> None:
    from flax.traverse_util import flatten_dict

    from scripts.fuzzing import safetensors_files, torch_files
    from vsjax.interop.viscy import torch_name
    from vsjax.runtime.checkpoint import load_checkpoint

    state = {}
    for path, value in flatten_dict(load_checkpoint("run").variables).items():
        array = np.asarray(value)
        if path[-1] == "kernel":
            up = path[-2].startswith("up_")
            array = np.moveaxis(np.flip(array, (0, 1, 2)) if up else array, (-2, -1), (0, 1) if up else (1, 0))
        state[f"model.{torch_name('fnet3d', path[1:])}"] = np.ascontiguousarray(array)
    settings = {"model_config": {"in_channels": 1, "out_channels": 1, "depth": 1, "in_stack_depth": 2}}
    Path("weights.safetensors").write_bytes(safetensors_files.write(state))
    Path("weights.ckpt").write_bytes(torch_files.write_zip(torch_files.pickled(state, settings), state))
    Path("weights.pth").write_bytes(torch_files.write_legacy(state))


def load(folder: Path) -> World:
    """The world that lies in a folder."""
    return World(folder, json.loads((folder.parent / "facts.json").read_text()))


def set_environment(work: Path) -> None:
    """What programs find in their environment: caches that only this run of the harness uses."""
    os.environ.update(
        {
            "JAX_COMPILATION_CACHE_DIR": str(work / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "MPLCONFIGDIR": str(work / "matplotlib"),
            "JAX_PLATFORMS": "cpu",
            "TMPDIR": str(work / "tmp"),
        }
    )
