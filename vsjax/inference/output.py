"""The plate that a prediction writes: begun once, continued after an interruption, never mixed with another's.

Under the attribute "vsjax" the plate says which checkpoint makes it and how (`record`), and each position says the same
and how many time points are finished. A time point counts as finished only after its pixels are on disk, so whatever
moment a run is killed at, what is marked is whole. When all positions are finished the plate is marked complete.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsjax.data.plate import Plate, PlateWriter, Position, create_plate
from vsjax.data.storage import Store
from vsjax.data.zarr_group import open_top
from vsjax.errors import UserError

ATTRIBUTE = "vsjax"
_DECISIVE = ("checkpoint.fingerprint", "input", "positions", "source_channels", "settings", "ngff_version")
_REMEDY = "choose another --output, or --overwrite"


class OutputPlate:
    """The output of one prediction; several processes may each write positions of their own.

    Attributes:
        record: what the plate says about the prediction; where a run is continued, as the interrupted one wrote it.
    """

    def __init__(self, writer: PlateWriter, record: dict[str, Any]) -> None:
        self._writer = writer
        self.record = record

    def finished_time_points(self, names: Sequence[str]) -> dict[str, int]:
        """How many time points of each position are finished, 0 where nothing is there."""
        try:
            plate = self._writer.plate
        except UserError:  # a single image that has not been begun
            return dict.fromkeys(names, 0)
        return {name: _finished_in(plate, name) for name in names}

    def create_position(self, name: str, **image: Any) -> Position:
        """The position to write into, as `PlateWriter.create_position`; what is there stays."""
        attributes = {ATTRIBUTE: {**self.record, "finished": False, "finished_time_points": 0}}
        return self._writer.create_position(name, **image, attributes=attributes)

    def mark(self, position: Position, time_points: int) -> None:
        """Record that the first `time_points` of a position are on disk; all of them finish it."""
        finished = time_points == position.shape[0]
        position.write_attribute(ATTRIBUTE, {**self.record, "finished": finished, "finished_time_points": time_points})

    def mark_complete(self) -> None:
        """Record that every position is finished. Until this is there the same command counts as interrupted."""
        self._writer.write_attribute(ATTRIBUTE, {**self._writer.plate.attributes[ATTRIBUTE], "complete": True})


def find_begun(url: str | Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the output that the same command began and did not finish, None where there is nothing yet.

    Raises:
        UserError: something else is there, what another checkpoint, input or other settings began, or it is complete.
    """
    begun = _read_record(url)
    if begun is None:
        return None
    _check_same(str(url), begun, record)
    if begun.get("complete"):
        raise UserError(f"{url}: is complete already, predicted by this checkpoint with these settings; {_REMEDY}")
    return {key: value for key, value in begun.items() if not key.startswith("finished")}


def open_output(
    url: str | Path, source: Plate, names: Sequence[str], record: dict[str, Any], *, resume: bool, overwrite: bool
) -> OutputPlate:
    """Begin the output, or go on with it.

    Args:
        url: where.
        source: the plate that is predicted from.
        names: its positions that are predicted.
        record: what the output says of itself; `record["ngff_version"]` is the version that it is written in.
        resume: go on with what is there; see `find_begun`.
        overwrite: delete what is there.

    Raises:
        UserError: something is in the way.
    """
    writer = create_plate(
        url,
        ngff_version=record["ngff_version"],
        is_hcs=source.is_hcs,
        overwrite=overwrite,
        resume=resume,
        position_names=names if source.is_hcs else (),
        attributes={ATTRIBUTE: record},
    )
    return OutputPlate(writer, record)


def _read_record(url: str | Path) -> dict[str, Any] | None:
    """What an output says of itself, None where there is nothing; UserError where no prediction made it."""
    store = Store(url)
    if not store.exists() or _is_empty_folder(store):
        return None
    _, attributes = open_top(store)
    record = attributes.get(ATTRIBUTE)
    if not isinstance(record, Mapping) or "checkpoint" not in record:
        raise UserError(f"{url}: exists and was not made by vsjax.predict; {_REMEDY}")
    return dict(record)


def check_apart(source: str, output: str) -> None:
    """UserError where the output is the input, lies in it or around it: nothing may damage what is predicted from."""
    folders = [Store(url).local_path for url in (source, output)]
    if None in folders:
        inside = source.rstrip("/") == output.rstrip("/")
    else:
        paths = [os.path.realpath(folder) for folder in folders]
        inside = os.path.commonpath(paths) in paths
    if inside:
        raise UserError(f"{output}: --output and --input ({source}) lie in one another; choose another --output")


def _is_empty_folder(store: Store) -> bool:
    """Whether there is at most what a run leaves that was killed while it wrote the first document."""
    path = store.local_path
    if path is None or not path.is_dir():
        return False
    debris = [child for child in path.iterdir() if child.name.endswith(".__lock") or child.name == ".zgroup"]
    if len(debris) < len(list(path.iterdir())):
        return False
    for child in debris:
        child.unlink()
    return True


def _finished_in(plate: Plate, name: str) -> int:
    try:
        record = plate[name].attributes.get(ATTRIBUTE, {})
    except UserError:  # not begun yet
        return 0
    return int(record.get("finished_time_points", 0))


def _check_same(url: str, begun: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """UserError that names the first thing that differs from the command that began this output."""
    for field in _DECISIVE:
        old, new = _get(begun, field), _get(record, field)
        if old == new:
            continue
        if field == "settings" and isinstance(old, Mapping):
            field, old, new = next((f"settings.{k}", old.get(k), new[k]) for k in new if old.get(k) != new[k])
        raise UserError(
            f"{url}: was begun with {field} = {old!r}, but this command has {new!r}; "
            f"repeat the command that began it, {_REMEDY}"
        )


def _get(record: Mapping[str, Any], field: str) -> Any:
    value: Any = record
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
