"""The plate that a prediction writes: begun once, continued after an interruption, never mixed with another's.

Under the attribute "vsjax" the plate says which checkpoint makes it and how (`record`), and each position says the same
and how many time points are finished. A time point counts as finished only after its pixels are on disk, so whatever
moment a run is killed at, what is marked is whole. When all positions are finished the plate is marked complete.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vsjax.errors import UserError
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate
from vsjax.plates.storage import Store
from vsjax.plates.writer import PlateWriter, create_plate
from vsjax.plates.zarr_group import open_top

LOG = logging.getLogger("vsjax.predict")
ATTRIBUTE = "vsjax"
REMEDY = "choose another --output, or --overwrite"
_DECISIVE = ("checkpoint.fingerprint", "input", "positions", "source_channels", "settings", "ngff_version")
_OF_PLATE = ("resolved", "complete")  # what the plate alone says; the rest stands at every position too
_PATIENCE_S = 1800  # how long a process waits for process 0 to begin the output
_POLL_S = 0.2


class OutputPlate:
    """The output of one prediction, written by one process or by several that do not talk.

    They may start at the same time or one after the other: process 0 begins the output and the others wait for it.
    Each writes positions of its own and no file of another's, except the plate's own document, which is changed
    atomically. Each can be killed and started again, also with another number of processes; whoever finishes last marks
    the plate complete.

    Attributes:
        record: what the plate says about the prediction; where a run is continued, as the interrupted one wrote it.
    """

    def __init__(self, writer: PlateWriter, record: dict[str, Any]) -> None:
        self._writer = writer
        self.record = record

    @property
    def complete(self) -> bool:
        """Whether every position was finished when the record was read."""
        return bool(self.record.get("complete"))

    @property
    def listed(self) -> bool:
        """Whether the plate lists its wells, which is the last thing that process 0 does before the first position."""
        return not self._writer.is_hcs or bool(self._plate.well_names)

    @functools.cached_property
    def _plate(self) -> Plate:
        return self._writer.plate

    def progress(self, name: str) -> tuple[bool, int]:
        """Whether a position is finished, and how many of its time points are."""
        try:
            record = self._plate[name].attributes.get(ATTRIBUTE, {})
        except UserError:  # not begun yet
            return False, 0
        return bool(record.get("finished")), int(record.get("finished_time_points", 0))

    def resolved(self, key: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was recorded under `key`, where nothing was, what `choose` gives; the same for all processes."""
        if key not in self.record["resolved"]:
            chosen = choose()
            self.record = self._writer.update_attribute(
                ATTRIBUTE, lambda now: {**now, "resolved": {key: chosen, **now["resolved"]}}
            )
        return self.record["resolved"][key]

    def create_position(self, name: str, **image: Any) -> Position:
        """The position to write into, as `PlateWriter.create_position`; what is there stays."""
        attributes = {ATTRIBUTE: {**self._position_record(), "finished": False, "finished_time_points": 0}}
        return self._writer.create_position(name, **image, attributes=attributes)

    def mark(self, position: Position, time_points: int) -> None:
        """Record that the first `time_points` of a position are on disk; all of them finish it."""
        finished = time_points == position.shape[0]
        record = {**self._position_record(), "finished": finished, "finished_time_points": time_points}
        position.write_attribute(ATTRIBUTE, record)

    def complete_if_finished(self) -> bool:
        """Record that every position is finished, by whichever process, if that is so, and say whether. Until this is
        recorded the same command counts as interrupted."""
        try:  # stops at the first that is not finished
            records = (position.attributes.get(ATTRIBUTE, {}) for position in self._plate.positions())
            finished = all(record.get("finished") for record in records)
        except UserError:  # one has not been begun
            return False
        if finished:
            self._writer.update_attribute(ATTRIBUTE, lambda now: {**now, "complete": True})
        return finished

    def _position_record(self) -> dict[str, Any]:
        return {key: value for key, value in self.record.items() if key not in _OF_PLATE}


def find_begun(url: str | Path, record: Mapping[str, Any], is_hcs: bool) -> OutputPlate | None:
    """The output that the same command began, None where there is nothing yet. Writes nothing.

    Raises:
        UserError: something else is there, or what another checkpoint, input or other settings began.
    """
    begun = _read_record(url)
    if begun is None:
        return None
    _check_same(str(url), begun, record)
    return OutputPlate(
        create_plate(url, ngff_version=record["ngff_version"], is_hcs=is_hcs, resume=True, cached=False), begun
    )


def begin_output(
    url: str | Path,
    is_hcs: bool,
    names: Iterable[str],
    record: dict[str, Any],
    *,
    begun: OutputPlate | None,
    overwrite: bool,
) -> OutputPlate:
    """Begin the output, or go on with it: process 0 alone does so.

    Args:
        url: where.
        is_hcs: a plate of wells, or a single image.
        names: the positions that are predicted, by all processes; iterated more than once.
        record: what the output says of itself; `record["ngff_version"]` is the version that it is written in.
        begun: from `find_begun`, to go on with.
        overwrite: delete what is there.

    Raises:
        UserError: something is in the way.
    """
    if begun and begun.listed:
        return begun
    if not begun and not overwrite:
        _delete_debris(Store(url))
    writer = create_plate(
        url,
        ngff_version=record["ngff_version"],
        is_hcs=is_hcs,
        overwrite=overwrite,
        resume=begun is not None,
        position_names=names if is_hcs else (),
        attributes=None if begun else {ATTRIBUTE: record},
        cached=False,
    )
    return OutputPlate(writer, begun.record if begun else record)


def join_output(url: str | Path, is_hcs: bool, record: Mapping[str, Any]) -> OutputPlate:
    """The output that process 0 of the same command begins, as soon as it has.

    Raises:
        UserError: process 0 does not begin it, or something else is there.
    """
    start, told = time.monotonic(), False
    while True:
        begun = find_begun(url, record, is_hcs)
        if begun and (begun.listed or begun.complete):
            return begun
        if time.monotonic() - start > _PATIENCE_S:
            raise UserError(
                f"{url}: process 0 has not begun it in {_PATIENCE_S} s; start the same command with --process 0 too"
            )
        if not told:
            LOG.info("%s: waiting until process 0 has begun it", url)
            told = True
        time.sleep(_POLL_S)


def _read_record(url: str | Path) -> dict[str, Any] | None:
    """What an output says of itself, None where there is nothing; UserError where no prediction made it."""
    store = Store(url)
    if not store.exists() or _is_empty_folder(store):
        return None
    _, attributes = open_top(store)
    record = attributes.get(ATTRIBUTE)
    if not isinstance(record, Mapping) or "checkpoint" not in record:
        raise UserError(f"{url}: exists and was not made by vsjax.predict; {REMEDY}")
    return dict(record)


def _is_empty_folder(store: Store) -> bool:
    """Whether there is at most what a run leaves that was killed while it wrote the first document."""
    path = store.local_path
    return path is not None and path.is_dir() and all(_is_debris(child) for child in path.iterdir())


def _delete_debris(store: Store) -> None:
    if _is_empty_folder(store):
        for child in store.local_path.iterdir():
            child.unlink()


def _is_debris(path: Path) -> bool:
    return path.name.endswith(".__lock") or path.name == ".zgroup"


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
            f"repeat the command that began it, {REMEDY}"
        )


def _get(record: Mapping[str, Any], field: str) -> Any:
    value: Any = record
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
