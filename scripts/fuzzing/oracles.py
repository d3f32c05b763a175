"""What a program wrote, measured without vsjax where that can be: with zarr-python and Python's JSON."""

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 1 << 26  # pixels of an array that is compared
_CLOCK = {"steps_per_second"}


def measure(path: Path) -> dict[str, Any]:
    """What lies at a path, as values that are equal where the results are.

    `pixels` by array of a plate, `statistics` of its documents, `log` of a run, `weights` of a checkpoint, `report` of
    an evaluation, or the digest of a file; `bad` says what may never be: NaN in JSON, or pixels that are not finite.
    """
    if path.is_file():
        return {"file": hashlib.sha1(path.read_bytes()).hexdigest()}
    found: dict[str, Any] = {"bad": _bad_documents(path)}
    if (path / "metrics.jsonl").exists():
        found["log"] = [
            {name: value for name, value in json.loads(line).items() if name not in _CLOCK}
            for line in (path / "metrics.jsonl").read_text().splitlines()
        ]
        found["bad"] += [f"log: {line}" for line in found["log"] if not np.isfinite([*line.values()]).all()][:1]
    elif (path / "checkpoints").is_dir():
        found["weights"] = _weights(path)
    elif (path / "metrics.json").exists():
        found["report"] = {table.name: table.read_text() for table in sorted(path.glob("*.csv"))}
    else:
        found |= _measure_plate(path, found["bad"])
    return found


def _measure_plate(path: Path, bad: list[str]) -> dict[str, Any]:
    pixels = {}
    for name, values in arrays(path):
        pixels[name] = values if isinstance(values, str) else digest(values)
        if isinstance(values, str):
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all() and name.startswith(("A", "B", "0")):
            bad.append(f"{name} holds pixels that are not finite")
    return {"pixels": pixels, "statistics": dict(_statistics(path))}


def arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """Every array below a folder as zarr-python reads it, but for very large ones; in words why it does not."""
    import zarr

    for document in _documents(path, "zarr.json", ".zarray"):
        if document.name == "zarr.json" and b'"array"' not in document.read_bytes():
            continue
        name = str(document.parent.relative_to(path))
        if any(stat.S_ISFIFO(inside.lstat().st_mode) for inside in document.parent.rglob("*")):
            yield name, "holds a FIFO, at which zarr-python would wait"
            continue
        try:
            array = zarr.open_array(document.parent, mode="r")
            if array.size <= LARGEST:
                yield name, np.asarray(array[...])
        except Exception as error:  # of an array that a case changed and the program had no need of
            yield name, f"zarr-python cannot read it: {type(error).__name__}"


def _documents(path: Path, *names: str) -> list[Path]:
    return sorted(found for name in names for found in path.rglob(name) if found.is_file())


def digest(values: np.ndarray) -> str:
    """Of an array's type, shape and values."""
    values = np.ascontiguousarray(values)
    head = f"{values.dtype.str} {values.shape} ".encode()
    return hashlib.sha1(head + values.tobytes()).hexdigest()


def _statistics(path: Path) -> Iterator[tuple[str, Any]]:
    for document in _documents(path, "zarr.json", ".zattrs"):
        try:
            content = json.loads(document.read_text())
        except (ValueError, RecursionError, OSError):
            continue  # what a case changed
        attributes = content if document.name == ".zattrs" else isinstance(content, dict) and content.get("attributes")
        if isinstance(attributes, dict) and "normalization" in attributes:
            yield str(document.relative_to(path)), attributes["normalization"]


def _bad_documents(path: Path) -> list[str]:
    """Documents with NaN or Infinity, which JSON does not have."""
    bad = []
    for document in sorted(
        p for p in path.rglob("*") if p.is_file() and (p.suffix == ".json" or p.name.startswith(".z"))
    ):
        try:
            json.loads(document.read_bytes(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            bad.append(f"{document.relative_to(path)}: {error}")
    return bad


def _refuse(name: str) -> None:
    raise ValueError(f"{name} in JSON")


def _weights(path: Path) -> dict[str, str]:
    import jax

    from vsjax.runtime.checkpoint import load_checkpoint

    leaves = jax.tree_util.tree_leaves_with_path(load_checkpoint(path).variables)
    return {jax.tree_util.keystr(name): digest(np.asarray(value)) for name, value in leaves}


def reads_as_zarr_does(plate: Path, sound: dict[str, str]) -> str:
    """Why vsjax reads other pixels from a plate than zarr-python, empty where it does not.

    Args:
        plate: whose documents or chunks were changed.
        sound: digests of the pixels before, by array: what is read unchanged is right.
    """
    from vsjax.plates.reader import open_plate

    for position in open_plate(plate).positions():
        ours = position.array().read().result()
        name = f"{position.name}/{position.metadata.paths[0]}"
        if digest(ours) in sound.values():
            continue
        try:
            theirs = _in_order(plate / name, position)
        except Exception as error:
            return f"{name}: vsjax reads other pixels than before, which zarr-python cannot read ({error!s:.100})"
        if not np.array_equal(ours.ravel(), theirs.ravel()):
            return f"{name}: vsjax and zarr-python read different pixels"
    return ""


def _in_order(path: Path, position: Any) -> np.ndarray:
    import zarr

    stored = np.asarray(zarr.open_array(path, mode="r")[...])
    axes = position.axes
    return stored.transpose([axes.index(axis) for axis in "tczyx" if axis in axes])
