"""What a derived plate says of how it was made, and each of its images: written and read here only.

Both stand under the attribute "vsjax" of their document; of a single image, whose top is its only position, that
attribute holds the fields of both.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveInt

from vsjax.errors import UserError
from vsjax.plates import ngff
from vsjax.plates.position import Position
from vsjax.plates.step import RECORD_ATTRIBUTE, Step
from vsjax.plates.storage import Store
from vsjax.plates.zarr_group import open_top
from vsjax.schema import Document, parse, to_json
from vsjax.version import __version__

REMEDY = "choose another --output, or --overwrite"
_DECISIVE = ("step", "input", "positions", "ngff_version", "settings")
_RESTORE = "restore the document, or remove the plate and make it again"


class _Record(Document):
    """Fields that plate and images share."""

    vsjax_version: str = Field(description="that started it")
    step: str = Field(description="the name of what makes it")
    input: str = Field(description="the plate that it is made from")
    settings: dict[str, Any] = Field(description="the step's; it is resumed only with the same")
    about: dict[str, Any] = Field(description="what the step says to readers; decides nothing")


class PlateRecord(_Record):
    """What the top of a derived plate says."""

    positions: tuple[str, ...] | Literal["all"] = Field(description="those that are made, all of the input's or these")
    ngff_version: Literal["0.4", "0.5"] = Field(description="that it is written in")
    stacks: tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...] = Field(
        default=(), description="(Z, Y, X) of what goes in, each once: what a step chooses may depend on all"
    )
    resolved: dict[str, dict[str, Any]] = Field(
        default={}, description="what was chosen when it was first needed, for all processes and later runs"
    )
    complete: bool = Field(default=False, description="whether every position is finished")


class PositionRecord(_Record):
    """What an image of a derived plate says."""

    finished: bool = Field(description="whether all of its time points are on disk")
    finished_time_points: int = Field(ge=0, description="how many of its time points are on disk")
    found: dict[str, dict[str, Any]] = Field(
        default={}, description='what the step found in "0", "1", ... of these beside pixels'
    )


class ImageRecord(PlateRecord, PositionRecord):
    """What a derived single image says, whose top is its only position."""


_R = TypeVar("_R", bound=Document)


def new_record(step: Step, source: str | Path, positions: list[str] | None, ngff_version: str) -> PlateRecord:
    """The record of a plate that `step` is about to make from the plate at `source`.

    Args:
        step: what makes it.
        source: its input.
        positions: those that are made, None for all.
        ngff_version: of the output.
    """
    local = Store(source).local_path
    record = {
        "vsjax_version": __version__,
        "step": step.name,
        "input": str(source) if local is None else str(local.resolve()),
        "settings": json.loads(to_json(dict(step.settings))),
        "about": json.loads(to_json(dict(step.about))),
        "positions": positions or "all",
        "ngff_version": ngff_version,
    }
    return parse(PlateRecord, record, "this command", "")


def position_record(
    plate: PlateRecord, time_points: int, finished: bool, found: Mapping[str, Mapping[str, Any]]
) -> PositionRecord:
    """What an image says of which the first `time_points` are on disk."""
    shared = {field: getattr(plate, field) for field in _Record.model_fields}
    return PositionRecord(**shared, finished=finished, finished_time_points=time_points, found=found)


def read_plate_record(url: str | Path) -> PlateRecord | None:
    """What the plate at `url` says of how it was made; None where it does not say.

    Raises:
        UserError: there is no plate, or a field is missing or of the wrong type.
    """
    group, attributes = open_top(Store(url))
    ome, _ = ngff.ome_attributes(attributes, group.zarr_format, group.where)
    return parse_attribute(plate_kind("plate" in ome), attributes.get(RECORD_ATTRIBUTE), group.where)


def read_position_record(position: Position) -> PositionRecord | None:
    """What an image says of how it was made; None where it does not say.

    Raises:
        UserError: the image does not exist, or a field is missing or of the wrong type.
    """
    return parse_attribute(position_kind(position), position.attributes.get(RECORD_ATTRIBUTE), position.where)


def plate_kind(is_hcs: bool) -> type[PlateRecord]:
    """What the top of a plate, or of a single image, says."""
    return PlateRecord if is_hcs else ImageRecord


def position_kind(position: Position) -> type[PositionRecord]:
    """What an image of a plate, or a single image, says."""
    return PositionRecord if "/" in position.name else ImageRecord


def parse_attribute(kind: type[_R], value: Any, where: str, field: str = RECORD_ATTRIBUTE) -> _R | None:
    """The typed form of an attribute (or of `field` in it), None where it is None.

    Raises:
        UserError: a field is missing, unknown or wrong; names the document `where` and the first such field.
    """
    return None if value is None else parse(kind, value, f"{where}: {field}", _RESTORE)


def check_same(url: str, found: PlateRecord | PositionRecord, wanted: PlateRecord) -> None:
    """UserError that names the first field in which a plate that was started, or an image of it, differs from the
    command at hand."""
    for field in _DECISIVE:
        if field not in type(found).model_fields:  # an image's says less
            continue
        old, new = getattr(found, field), getattr(wanted, field)
        if old != new:
            path, old, new = _first_difference(old, new, () if field == "settings" else (field,))
            raise UserError(
                f"{url}: was started with {path} = {old!r}, but this command has {new!r}; "
                f"repeat the command that started it, {REMEDY}"
            )


def _first_difference(old: Any, new: Any, path: tuple[str, ...]) -> tuple[str, Any, Any]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*new, *old)):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), (*path, key))
    return ".".join(path), old, new
