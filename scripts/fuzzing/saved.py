"""Cases of what vsjax saved: checkpoints, their descriptions, and the records of plates that were made from plates."""

import hashlib
import json
import random
import shutil
from pathlib import Path

from scripts.fuzzing import documents, files, schemas
from scripts.fuzzing.commands import COMMANDS
from scripts.fuzzing.trial import Judge, Measures, Trial, difference, never, on_command
from scripts.fuzzing.world import World

_USES_RUN = (*["predict cells05.zarr"] * 5, *["predict last"] * 3, "features", "begin with", *["resume"] * 3)
# Fields that may change what a checkpoint predicts when they are other sound values.
_DECIDES = ("normalization", "tta", "channels", "statistics", "config", "progress", "pixel_size_um", "step")
_TELLS = (
    "finished",
    "finished_time_points",
    "complete",
    "units",
    "normalization",
    "source_channels",
    "about",
    "found",
    "resolved",
    "stacks",
)


def checkpoints(world: World, folder: Path, choose: random.Random) -> Trial:
    """A file of a checkpoint, or what stands in its place; JSON files by their structure too."""
    command = choose.choice(_USES_RUN)
    world.copy(folder, *COMMANDS[command].inputs)
    run = folder / ("half_run" if command == "resume" else "run")
    kind = "best" if command not in ("predict last", "resume") else "last"
    found = sorted(p for p in (run / "checkpoints" / kind).rglob("*") if p.is_file())
    path = choose.choice(found)
    how = choose.random()
    if how < 0.15:
        found = sorted((run / "checkpoints" / kind).rglob("*"))
        inside = [p for p in found if p.is_dir() and not p.name.isdecimal()]  # a run with a step less is a sound one
        path = choose.choice(inside)
        shutil.rmtree(path)
        what = "the folder is removed"
    elif how < 0.45 and path.read_bytes()[:1] == b"{" and _is_json(path):
        change = documents.mutate(path.read_bytes(), choose)
        path.write_bytes(change.content)
        what = str(change)
    else:
        what = files.mutate(path, choose)
    return on_command(world, command, f"{path.relative_to(folder)}: {what}", _resumed_or_same(command))


def _resumed_or_same(command: str) -> Judge:
    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        if command == "resume" and found.get("log", [])[-1:] == sound.get("log", [])[-1:]:
            return ""  # from an older step, or anew: it ends where the undisturbed run ends
        return never(folder, found, sound)

    return judge


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def descriptions(world: World, folder: Path, choose: random.Random) -> Trial:
    """The description of a checkpoint, by its structure and by its class."""
    command = choose.choice(_USES_RUN)
    run, kind = (
        ("half_run", "last") if command == "resume" else ("run", "last" if command == "predict last" else "best")
    )
    return _typed(world, folder, choose, command, f"{run}/checkpoints/{kind}/", _DECIDES)


def records(world: World, folder: Path, choose: random.Random) -> Trial:
    """A typed document of a plate that was made from a plate, or of a simulated one."""
    tops = {"evaluate": "stained.zarr/", "predict on": "half.zarr/", "simulate again": "simulated.zarr/"}
    command = choose.choice(["evaluate", "predict on", "predict on", "simulate again"])
    return _typed(world, folder, choose, command, tops[command], _TELLS)


def _typed(
    world: World, folder: Path, choose: random.Random, command: str, top: str, decides: tuple[str, ...]
) -> Trial:
    world.copy(folder, *COMMANDS[command].inputs)
    known = [entry for entry in world.facts["documents"] if entry["file"].startswith(top)]
    if "checkpoints" not in top:  # what is read as a record stands in attributes; the rest is the plate's metadata
        known = [entry for entry in known if entry["path"][:1] == ["attributes"] and "ome" not in entry["path"]]
    entry = choose.choice(known)
    path, below = folder / entry["file"], tuple(entry["path"])
    for document in folder.rglob("zarr.json"):
        world.moved(document, folder)
    if choose.random() < 0.5:
        change = documents.mutate(path.read_bytes(), choose, below)
    else:
        change = schemas.change(path.read_bytes(), below, entry["kind"], choose)
    path.write_bytes(change.content)
    sealed = choose.random() < 0.7 and _seal(path)
    words = f"{entry['kind'].rpartition(':')[2]} in {entry['file']}: {change}{', sealed again' if sealed else ''}"
    return on_command(world, command, words, _typed_judge(change, decides, command))


def _seal(file: Path) -> bool:
    """Let the manifest of a checkpoint tell of a changed file, as whoever means harm would; whether there is one."""
    step = next((parent for parent in file.parents if (parent / "manifest.json").exists()), None)
    if step is None or file.name == "manifest.json":
        return False
    manifest = json.loads((step / "manifest.json").read_bytes())
    item, _, name = str(file.relative_to(step)).partition("/")
    content = file.read_bytes()
    told = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["items"][item]["files"][name] = told
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest["items"], sort_keys=True).encode()).hexdigest()
    (step / "manifest.json").write_text(json.dumps(manifest))
    return True


def _typed_judge(change: documents.Change, decides: tuple[str, ...], command: str) -> Judge:
    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        if command == "resume" and found.get("log", [])[-1:] == sound.get("log", [])[-1:]:
            return ""
        if any(part in decides for part in change.path) or (
            change.kind in ("swapped", "doubled", "deleted", "renamed")
        ):
            return ""
        return f"a field that decides nothing changed the result: {difference(found, sound)}"

    return judge


CATEGORIES = {"checkpoints": checkpoints, "descriptions": descriptions, "records": records}
