"""Cases of plates: their metadata, their chunks, and the statistics in their attributes."""

import json
import math
import random
from pathlib import Path

from scripts.fuzzing import documents, files, oracles, schemas
from scripts.fuzzing.commands import COMMANDS
from scripts.fuzzing.trial import Judge, Measures, Trial, difference, on_command
from scripts.fuzzing.world import World

NUMBERS = ("mean", "std", "median", "iqr", "min", "max", "p1", "p99")
_ON_PLATE = (
    *["predict"] * 6,
    *["preprocess"] * 6,
    *["equalize"] * 4,
    "predict target units",
    "predict target units",
    "train",
)


def metadata04(world: World, folder: Path, choose: random.Random) -> Trial:
    """A document of an NGFF 0.4 plate."""
    return _metadata(world, folder, choose, "cells04.zarr")


def metadata05(world: World, folder: Path, choose: random.Random) -> Trial:
    """A document of an NGFF 0.5 plate."""
    return _metadata(world, folder, choose, "cells05.zarr")


def _metadata(world: World, folder: Path, choose: random.Random, plate: str) -> Trial:
    command = f"{choose.choice(_ON_PLATE)} {plate}"
    if plate == "cells05.zarr" and choose.random() < 0.15:
        command = choose.choice(["evaluate", "features", "statistics for convert"])
    world.copy(folder, *COMMANDS[command].inputs)
    path = _document(folder / plate, choose)
    if choose.random() < 0.15:
        words = f"{path.relative_to(folder)}: {files.mutate(path, choose)}"
    else:
        typed = [e for e in world.facts["documents"] if e["file"] == str(path.relative_to(folder))]
        if typed and choose.random() < 0.4:
            change = schemas.change(path.read_bytes(), tuple(typed[0]["path"]), typed[0]["kind"], choose)
        else:
            change = documents.mutate(path.read_bytes(), choose, _below(path, choose))
        path.write_bytes(change.content)
        words = f"{path.relative_to(folder)}: {change}"
    return on_command(world, command, words, _reads_right(plate, world))


def _document(plate: Path, choose: random.Random) -> Path:
    """Of the top, a well, an image, an array or a label; those of the first position more often, since it is read."""
    found = sorted(p for p in plate.rglob("*") if p.name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))
    first = [p for p in found if "B" not in p.relative_to(plate).parts]
    return choose.choice(first if choose.random() < 0.7 else found)


def _below(path: Path, choose: random.Random) -> documents.Path:
    """Where in a document: often its OME part, which long statistics would hide."""
    content = json.loads(path.read_bytes())
    if choose.random() < 0.6 and path.name == ".zattrs":
        return (choose.choice([key for key in content if key != "normalization"]),)
    if choose.random() < 0.6 and "ome" in content.get("attributes", {}):
        return ("attributes", "ome")
    return ()


def _reads_right(plate: str, world: World) -> Judge:
    """Another result is right where vsjax reads the pixels that zarr-python reads of the changed plate."""

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        known = world.facts.get("pixels", {}).get(plate, {})
        if set(_values(found)) <= set(_values(sound)):
            return ""  # fewer positions or other names, each with what it had
        return oracles.reads_as_zarr_does(folder / plate, known)

    return judge


def _values(measures: Measures) -> list[str]:
    return [str(value) for part in ("pixels", "weights", "report") for value in (measures or {}).get(part, {}).values()]


def chunks(world: World, folder: Path, choose: random.Random) -> Trial:
    """A chunk of a plate's pixels or labels: its bytes, or what stands in its place."""
    plate = choose.choice(["cells04.zarr", "cells05.zarr"])
    command = f"{choose.choice(_ON_PLATE)} {plate}"
    if plate == "cells05.zarr" and choose.random() < 0.15:
        command = "evaluate"
    world.copy(folder, *COMMANDS[command].inputs)
    target = folder / ("stained.zarr" if command == "evaluate" and choose.random() < 0.5 else plate)
    found = [p for p in sorted(target.rglob("*")) if p.is_file() and not p.name.startswith((".z", "zarr.json"))]
    path = choose.choice([p for p in found if "labels" not in p.parts] if choose.random() < 0.85 else found)
    kind = choose.choice([*files.CONTENT, *files.CONTENT, *files.PLACE, "swapped"])
    if kind == "swapped":
        other = choose.choice(found)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        words = f"swapped {path.relative_to(folder)} with {other.relative_to(folder)}"
    else:
        files.mutate(path, choose, (kind,))
        words = f"{path.relative_to(folder)}: {kind}"
    return on_command(world, command, words, _chunk_judge(target.name, world, path, kind))


def _chunk_judge(plate: str, world: World, path: Path, kind: str) -> Judge:
    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        if kind in files.PLACE and kind not in ("removed", "unreadable"):
            return f"{kind} in the place of a chunk was read as pixels: {difference(found, sound)}"
        if kind in files.CONTENT and _has_checksum(path):
            return f"a chunk that fails its checksum was read: {difference(found, sound)}"
        return oracles.reads_as_zarr_does(folder / plate, world.facts.get("pixels", {}).get(plate, {}))

    return judge


def _has_checksum(chunk: Path) -> bool:
    """Whether the array of a chunk has zarr 3's crc32c."""
    array = next((parent / "zarr.json" for parent in chunk.parents if (parent / "zarr.json").exists()), None)
    return array is not None and "crc32c" in array.read_text()


def statistics(world: World, folder: Path, choose: random.Random) -> Trial:
    """The statistics in the attributes of the plate or an image."""
    plate = choose.choice(["cells04.zarr", "cells05.zarr"])
    command = choose.choice([f"{name} {plate}" for name in _ON_PLATE if name not in ("preprocess", "equalize")])
    if plate == "cells05.zarr" and choose.random() < 0.3:
        command = choose.choice(["evaluate", "statistics for convert", "features"])
    world.copy(folder, *COMMANDS[command].inputs)
    found = [p for p in sorted((folder / plate).rglob("*")) if p.name in ("zarr.json", ".zattrs")]
    found = [p for p in found if b'"normalization"' in p.read_bytes()]
    path = choose.choice(found[1:] if choose.random() < 0.8 else found)  # the top comes first; few networks read it
    below = ("normalization",) if path.name == ".zattrs" else ("attributes", "normalization")
    change = documents.mutate(path.read_bytes(), choose, _narrowed(path, below, choose))
    path.write_bytes(change.content)
    return on_command(world, command, f"{path.relative_to(folder)}: {change}", _statistics_judge(change))


def _narrowed(path: Path, below: documents.Path, choose: random.Random) -> documents.Path:
    """The statistics of the scope that the network reads, most times."""
    deeper = (*below, choose.choice(["BF", "BF", "BF", "nuclei"]), "fov_statistics")
    if choose.random() < 0.5:
        deeper = (*deeper, choose.choice(["mean", "std"]))  # what the run is normalised by
    try:
        documents.get(json.loads(path.read_bytes()), deeper)
    except KeyError:
        return below
    return deeper if choose.random() < 0.8 else below


def _statistics_judge(change: documents.Change) -> Judge:
    """Another result is right only where a number took the place of a number, and a spread is above 0."""

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        field = change.path[-1] if change.path else ""
        if change.kind in ("swapped", "doubled"):
            return ""  # numbers that another field or channel may have
        try:
            value = json.loads(change.token)
        except (ValueError, RecursionError):
            value = None
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if field in NUMBERS and is_number and not (field in ("std", "iqr") and value <= 0):
            return ""
        return f"statistics that mean nothing changed the result: {difference(found, sound)}"

    return judge


CATEGORIES = {"metadata04": metadata04, "metadata05": metadata05, "chunks": chunks, "statistics": statistics}
