"""The plate that a step writes: started once, resumed after an interruption, never mixed with another's.

A time point counts as finished only after its pixels and labels are on disk, so whatever moment a run is killed at,
what is marked is whole. When all positions are finished the plate is marked complete.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from vsjax.errors import UserError
from vsjax.plates.deletion import delete_debris, is_debris
from vsjax.plates.derived_record import (
    REMEDY,
    PlateRecord,
    check_same,
    parse_attribute,
    plate_kind,
    position_kind,
    position_record,
    read_plate_record,
    read_position_record,
)
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate
from vsjax.plates.step import RECORD_ATTRIBUTE, ImageInfo, Result
from vsjax.plates.storage import Store
from vsjax.plates.writer import PlateWriter, create_plate

LOG = logging.getLogger(__name__)
_PATIENCE_S = 1800  # how long a process waits for process 0 to start the output
_POLL_S = 0.2


@dataclass(frozen=True)
class DerivedImage:
    """Where one image is written.

    Attributes:
        position: its pixels and its record.
        labels: the arrays [T, 1, Z, Y, X] of its labels, by name.
    """

    position: Position
    labels: Mapping[str, ts.TensorStore]

    def write(self, time_point: int, result: Result) -> list[ts.Future]:
        """Start to write what came out of a time point."""
        writes = [self.position.array()[time_point].write(result.pixels)]
        return writes + [self.labels[name][time_point, 0].write(ids) for name, ids in result.labels.items()]


class DerivedPlate:
    """The output of one step, written by one process or by several that do not talk.

    They may start at the same time or one after the other: process 0 starts the output and the others wait for it.
    Each writes positions of its own and no file of another's, except the plate's own document, which is changed
    atomically. Each can be killed and started again, also with another number of processes; whoever finishes last marks
    the plate complete.

    Attributes:
        record: what the plate says of how it is made; where a run is resumed, as the interrupted one wrote it.
    """

    def __init__(self, writer: PlateWriter, record: PlateRecord) -> None:
        self._writer = writer
        self._choosing = threading.Lock()
        self.record = record

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
            position = self._plate[name]
            _ = position.attributes
        except UserError:  # not started yet
            return False, 0
        record = read_position_record(position)
        if record is None:
            return False, 0
        check_same(position.where, record, self.record)
        times = position.shape[0]
        if record.finished_time_points > times or record.finished != (record.finished_time_points == times):
            raise UserError(
                f"{position.where}: {RECORD_ATTRIBUTE}.finished_time_points: is {record.finished_time_points}, but the "
                f"image has {times}{' and is finished' if record.finished else ''}; restore the document, or remove "
                "the plate and make it again"
            )
        return record.finished, record.finished_time_points

    def resolved(self, key: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was recorded under `key`, where nothing was, what `choose` gives; the same for all processes."""
        with self._choosing:  # time points are computed in several threads
            if key not in self.record.resolved:
                chosen = choose()
                self._update(lambda now: {**now, "resolved": {key: chosen, **now.get("resolved", {})}})
            return self.record.resolved[key]

    def create_image(self, image: ImageInfo, labels: Sequence[str]) -> "DerivedImage":
        """The image to write into, and its labels; what is there stays."""
        record = position_record(self.record, 0, finished=False, found={}).model_dump(mode="json")
        if not self._writer.is_hcs:  # one document holds both records
            record = {**self.record.model_dump(mode="json"), **record}
        position = self._writer.create_position(
            image.name,
            shape=image.shape,
            dtype=image.dtype,
            channel_names=image.channel_names,
            pixel_size_um=image.pixel_size_um,
            scale=image.scale,
            axes=image.axes,
            display=image.display,
            attributes={**image.attributes, RECORD_ATTRIBUTE: record},
        )
        shape = (image.shape[0], 1, *image.shape[2:])
        return DerivedImage(
            position=position, labels={name: self._writer.create_label(image.name, name, shape) for name in labels}
        )

    def mark(self, position: Position, time_points: int, found: Mapping[str, Any]) -> None:
        """Record that the first `time_points` of a position are on disk, and what was `found` in the last of these; all
        of them finish it."""
        finished = time_points == position.shape[0]

        def change(now: Any) -> dict[str, Any]:
            old = parse_attribute(position_kind(position), now, position.where)
            all_found = {**(old.found if old else {}), **({str(time_points - 1): dict(found)} if found else {})}
            new = position_record(self.record, time_points, finished, all_found)
            return {**(now or {}), **new.model_dump(mode="json")}

        position.update_attribute(RECORD_ATTRIBUTE, change)

    def complete_if_finished(self) -> bool:
        """Record that every position is finished, by whichever process, if that is so, and say whether. Until this is
        recorded the same command counts as interrupted."""
        try:  # stops at the first that is not finished
            records = (read_position_record(position) for position in self._plate.positions())
            finished = all(record is not None and record.finished for record in records)
        except UserError:  # one has not been started
            return False
        if finished:
            self._update(lambda now: {**now, "complete": True})
        return finished

    def _update(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        value = self._writer.update_attribute(RECORD_ATTRIBUTE, change)
        self.record = parse_attribute(plate_kind(self._writer.is_hcs), value, self._writer.url)


def find_output(url: str | Path, record: PlateRecord, is_hcs: bool) -> DerivedPlate | None:
    """The output that the same command started, None where there is nothing yet. Writes nothing.

    Raises:
        UserError: something else is there, or what another step, input or other settings started.
    """
    store = Store(url)
    if not store.exists() or is_debris(store):
        return None
    found = read_plate_record(url)
    if found is None:
        raise UserError(f"{url}: exists already and was not made by this command; {REMEDY}")
    check_same(str(url), found, record)
    writer = create_plate(url, ngff_version=record.ngff_version, is_hcs=is_hcs, resume=True, cached=False)
    return DerivedPlate(writer, found)


def start_output(
    url: str | Path,
    is_hcs: bool,
    names: Iterable[str],
    record: PlateRecord,
    attributes: Mapping[str, Any],
    *,
    existing: DerivedPlate | None,
    overwrite: bool,
) -> DerivedPlate:
    """Start the output, or resume it: process 0 alone does so.

    Args:
        url: where.
        is_hcs: a plate of wells, or a single image.
        names: the positions that are made, by all processes; iterated more than once.
        record: what the output says of itself; it is written in `record.ngff_version`.
        attributes: further attributes of a plate's top.
        existing: from `find_output`, to resume.
        overwrite: delete what is there.

    Raises:
        UserError: something is in the way.
    """
    if existing and existing.listed:
        return existing
    if not existing and is_debris(store := Store(url)):
        delete_debris(store)
    first = record.model_dump(mode="json")
    if not is_hcs:  # one document holds both records
        first |= position_record(record, 0, finished=False, found={}).model_dump(mode="json")
    first = {**(attributes if is_hcs else {}), RECORD_ATTRIBUTE: first}
    writer = create_plate(
        url,
        ngff_version=record.ngff_version,
        is_hcs=is_hcs,
        overwrite=overwrite,
        resume=existing is not None,
        position_names=names if is_hcs else (),
        attributes=None if existing else first,
        cached=False,
    )
    return DerivedPlate(writer, existing.record if existing else record)


def join_output(url: str | Path, is_hcs: bool, record: PlateRecord) -> DerivedPlate:
    """The output that process 0 of the same command starts, as soon as it has.

    Raises:
        UserError: process 0 does not start it, or something else is there.
    """
    start, told = time.monotonic(), False
    while True:
        output = find_output(url, record, is_hcs)
        if output and (output.listed or output.record.complete):
            return output
        if time.monotonic() - start > _PATIENCE_S:
            raise UserError(
                f"{url}: process 0 has not started it in {_PATIENCE_S} s; start the same command with --process 0 too"
            )
        if not told:
            LOG.info("%s: waiting until process 0 has started it", url)
            told = True
        time.sleep(_POLL_S)
