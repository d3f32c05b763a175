"""What a derived plate says of how it was made, and each of its images: written and read here only.

Both stand under the attribute "vsjax" of their document; of a single image, whose top is its only position, that
attribute holds the fields of both.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vsjax.errors import UserError
from vsjax.plates.position import Position
from vsjax.plates.step import RECORD_ATTRIBUTE, Step
from vsjax.plates.storage import Store
from vsjax.plates.zarr_group import open_top
from vsjax.version import __version__

REMEDY = "choose another --output, or --overwrite"
_DECISIVE = ("step", "input", "positions", "ngff_version", "settings")


class _Record(BaseModel):
    """Fields that plate and images share.

    Attributes:
        vsjax_version: that started it.
        step: the name of what makes it.
        input: the plate that it is made from.
        settings: the step's; it is resumed only with the same.
        about: what the step says to readers; decides nothing.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    vsjax_version: str
    step: str
    input: str
    settings: dict[str, Any]
    about: dict[str, Any]


class PlateRecord(_Record):
    """What the top of a derived plate says.

    Attributes:
        positions: those that are made, "all" of the input's or these.
        ngff_version: that it is written in.
        resolved: what was chosen when it was first needed, for all processes and later runs.
        complete: whether every position is finished.
    """

    positions: list[str] | Literal["all"]
    ngff_version: str
    resolved: dict[str, dict[str, Any]] = {}
    complete: bool = False


class PositionRecord(_Record):
    """What an image of a derived plate says.

    Attributes:
        finished: whether all of its time points are on disk.
        finished_time_points: how many are.
        found: what the step found in each of these beside pixels, by "0", "1", ... where it found something.
    """

    finished: bool
    finished_time_points: int = Field(ge=0)
    found: dict[str, dict[str, Any]] = {}


_R = TypeVar("_R", bound=BaseModel)


def new_record(step: Step, source: str | Path, positions: list[str] | None, ngff_version: str) -> PlateRecord:
    """The record of a plate that `step` is about to make from the plate at `source`.

    Args:
        step: what makes it.
        source: its input.
        positions: those that are made, None for all.
        ngff_version: of the output.
    """
    local = Store(source).local_path
    settings, about = (json.loads(json.dumps(dict(part))) for part in (step.settings, step.about))
    return PlateRecord(
        vsjax_version=__version__,
        step=step.name,
        input=str(source) if local is None else str(local.resolve()),
        settings=settings,
        about=about,
        positions=positions or "all",
        ngff_version=ngff_version,
    )


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
    return parse_attribute(PlateRecord, attributes.get(RECORD_ATTRIBUTE), group.where)


def read_position_record(position: Position) -> PositionRecord | None:
    """What an image says of how it was made; None where it does not say.

    Raises:
        UserError: the image does not exist, or a field is missing or of the wrong type.
    """
    return parse_attribute(PositionRecord, position.attributes.get(RECORD_ATTRIBUTE), position.where)


def parse_attribute(model: type[_R], value: Any, where: str, field: str = RECORD_ATTRIBUTE) -> _R | None:
    """The typed form of an attribute (or of `field` in it), None where it is None.

    Raises:
        UserError: a field is missing or of the wrong type; names the document `where` and the first such field.
    """
    if value is None:
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, (field, *first["loc"])))
        raise UserError(
            f"{where}: {name}: {first['msg'][0].lower()}{first['msg'][1:]}; "
            "restore the document, or make the plate again with --overwrite"
        ) from error


def check_same(url: str, found: PlateRecord, wanted: PlateRecord) -> None:
    """UserError that names the first field in which a plate that was started differs from the command at hand."""
    for field in _DECISIVE:
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
