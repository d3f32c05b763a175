"""Cases of paths: where inputs and outputs of each program are said to lie."""

import os
import random
import shutil
import socket
from pathlib import Path

from scripts.fuzzing import programs
from scripts.fuzzing.commands import COMMANDS
from scripts.fuzzing.tokens import WEIRD_NAMES, short
from scripts.fuzzing.trial import Trial
from scripts.fuzzing.world import World

# command -> its flags that name what it reads, and those that name what it writes
FLAGS = {
    "predict cells05.zarr": (("--checkpoint", "--input"), ("--output",)),
    "equalize cells05.zarr": (("--plate",), ("--output",)),
    "preprocess cells05.zarr": (("--plate",), ()),
    "evaluate": (("--prediction", "--target"), ("--output",)),
    "features": (("--checkpoint", "--input"), ("--output",)),
    "convert weights.ckpt": (("--input",), ("--output",)),
    "statistics for convert": (("--statistics",), ("--output",)),
    "begin with": (("--config.init.checkpoint", "--config.data.plates"), ("--workdir",)),
}
IN_THE_WAY = (
    "below a file", "the input", "in the input", "around the input", "a measured plate", "a foreign folder", "a file",
    "a FIFO", "a link to itself", "a broken link", "a link to the input", "a link to a foreign folder",
    "in a link to the input", "the run", "the input by another name", "a plate with a note in it",
)  # fmt: skip
NO_INPUT = ("missing", "below a file", "an empty folder", "a file", "a FIFO", "a link to itself", "a broken link",
            "a foreign folder", "no answer", "refused", "another kind")  # fmt: skip
# outputs under which nothing stands in the way, though the name is odd
HARMLESS = ("newline", "control", "space", "star", "percent", "not UTF-8", "leading dash", "emoji", "a broken link",
            "300 characters", "5000 characters")  # fmt: skip
REPORT = ("metrics.json", "pixel.csv", "pixel.png", "pixel_panels_nuclei.png", "pixel_summary.csv")
SECONDS_FOR_NETWORK = 40.0  # where the program waits for an answer as long as it says that it does


def paths(world: World, folder: Path, choose: random.Random) -> Trial:
    """One flag of a program that names a place."""
    name = choose.choice(list(FLAGS))
    command = COMMANDS[name]
    reads, writes = FLAGS[name]
    world.copy(folder, *command.inputs)
    is_output = bool(writes) and choose.random() < 0.65
    flag = choose.choice(writes if is_output else reads)
    kind = choose.choice([*(IN_THE_WAY if is_output else NO_INPUT), *WEIRD_NAMES])
    place = WEIRD_NAMES[kind] if kind in WEIRD_NAMES else _make(world, folder, kind, command.inputs)
    if (
        kind in ("newline", "control", "not UTF-8", "emoji", "star", "percent", "leading dash", "300 characters")
        and is_output
    ):
        place = f"out/{place}"
    overwrite = is_output and flag == "--output" and choose.random() < 0.5
    arguments = [*_replaced(command.arguments, flag, place), *(["--overwrite"] if overwrite else [])]
    words = f"{name}: {flag} {kind}: {short(place)!r}{' --overwrite' if overwrite else ''}"
    # a report is written beside what is there, and leaves that as it is
    is_report = name == "evaluate" and overwrite and kind in ("a foreign folder", "a link to a foreign folder")
    is_fine = (is_output and kind in HARMLESS) or is_report
    written = [f"place/{file}" for file in REPORT] if is_report else ["out", "nothing", " ", "n" * 300]

    def judge(folder: Path) -> str:
        return "" if is_fine or (not is_output and kind in ("space",)) else f"{flag} {kind} was taken"

    return Trial(
        words=words,
        program=programs.run(arguments),
        command=f"python -m vsjax.{' '.join(map(short, arguments))}",
        may_write=tuple(written) if is_fine else (),
        may_write_always=("out",) if is_fine else (),
        judge=judge,
        seconds=SECONDS_FOR_NETWORK if kind == "no answer" else 20.0,
    )


def _replaced(arguments: tuple[str, ...], flag: str, place: str) -> list[str]:
    """The command line with another value of a flag."""
    changed = list(arguments)
    for number, part in enumerate(changed):
        if part == flag:
            changed[number + 1] = place
            return changed
        if part.startswith(f"{flag}="):
            changed[number] = f"{flag}={place}"
            return changed
    return [*changed, f"{flag}={place}"]


def _make(world: World, folder: Path, kind: str, inputs: tuple[str, ...]) -> str:
    """Put something at a place in the folder; its path there."""
    plate = next((name for name in reversed(inputs)), "cells05.zarr")
    if kind in ("the input", "in the input", "around the input", "the input by another name"):
        return {"the input": plate, "in the input": f"{plate}/new", "around the input": "../" + folder.name,
                "the input by another name": f"{folder}/out/../{plate}/"}[kind]  # fmt: skip
    if kind in ("a link to the input", "in a link to the input"):
        (folder / "link").symlink_to(plate)
        return "link" if kind == "a link to the input" else "link/new"
    if kind in ("a measured plate", "a plate with a note in it"):
        shutil.copytree(
            world.folder / ("cells04.zarr" if kind == "a measured plate" else "stained.zarr"), folder / "other.zarr"
        )
        if kind != "a measured plate":
            (folder / "other.zarr" / "note.txt").write_text("mine")
        return "other.zarr"
    if kind == "the run":
        if not (folder / "run").exists():
            shutil.copytree(world.folder / "run", folder / "run")
        return "run"
    return _make_odd(folder, kind)


def _make_odd(folder: Path, kind: str) -> str:
    place = folder / "place"
    if kind in ("no answer", "refused"):
        return f"http://127.0.0.1:{_port(kind == 'no answer')}/x.zarr"
    if kind in ("a foreign folder", "a link to a foreign folder", "another kind"):
        place.mkdir()
        (place / "thesis.txt").write_text("three years")
        if kind == "another kind":
            (place / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        if kind == "a link to a foreign folder":
            (folder / "link").symlink_to("place")
            return "link"
    elif kind in ("a file", "below a file"):
        place.write_text("a file")
        return "place/below" if kind == "below a file" else "place"
    elif kind == "an empty folder":
        place.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(place)
    elif kind == "a link to itself":
        place.symlink_to("place")
    elif kind == "a broken link":
        place.symlink_to("nothing")
    return "place"


_servers: list[socket.socket] = []


def _port(listens: bool) -> int:
    """A port of this machine at which a server takes connections and never answers, or at which there is none."""
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = server.getsockname()[1]
    if listens:
        _servers.append(server)
    else:
        server.close()
    return port


CATEGORIES = {"paths": paths}
