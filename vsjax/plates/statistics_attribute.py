"""Where intensity statistics stand in the attributes of a plate and its images: VisCy's layout, read and written here.

{"normalization": {channel: {"dataset_statistics": {...}, "fov_statistics": {...},
                             "timepoint_statistics": {"0": {...}, ...}}}}
"""

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from vsjax.errors import UserError, shorten
from vsjax.schema import Document, parse

STATISTICS_ATTRIBUTE = "normalization"
LARGEST_VALUE = 1e30  # of a pixel, either way: float32 holds what such pixels are normalised to
_KEYS = {"dataset": "dataset_statistics", "fov": "fov_statistics", "timepoint": "timepoint_statistics"}

Statistics = dict[str, float]
_Value = Annotated[float, pydantic.Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]
_Width = Annotated[float, pydantic.Field(ge=0, le=2 * LARGEST_VALUE)]


class ChannelStatistics(Document):
    """The statistics of one channel over some pixels. VisCy's versions write fewer of them, or more, which stay."""

    model_config = pydantic.ConfigDict(extra="allow")

    min: _Value | None = None
    max: _Value | None = None
    mean: _Value | None = None
    std: _Width | None = None
    median: _Value | None = None
    iqr: _Width | None = None
    p1: _Value | None = None
    p5: _Value | None = None
    p95: _Value | None = None
    p99: _Value | None = None
    p95_p5: _Width | None = None
    p99_p1: _Width | None = None


def find_statistics(
    attributes: Mapping[str, Any], channel: str, scope: str, time: int = 0, *, where: str, plate_url: str
) -> Statistics:
    """One channel's statistics as they stand in an image's attributes.

    Args:
        attributes: the image's.
        channel: name.
        scope: over which pixels: "dataset", "fov" or "timepoint".
        time: the time point, for "timepoint".
        where, plate_url: the document and the plate, for the message.

    Raises:
        UserError: they are missing, or not numbers that pixels can be normalised by; names the command that makes them.
    """
    if scope not in tuple(_KEYS):
        raise UserError(f"{where}: statistics of scope {scope!r} do not exist; choose one of {', '.join(_KEYS)}")
    remedy = f"run python -m vsjax.preprocess --plate {plate_url}"
    found: Any = attributes
    path = f"{where}: "
    for key in (STATISTICS_ATTRIBUTE, channel, _KEYS[scope], *([str(time)] if scope == "timepoint" else [])):
        found = found.get(key)
        path += f"{'' if key == STATISTICS_ATTRIBUTE else '.'}{key}"
        if found is None:
            raise UserError(
                f"{where}: {STATISTICS_ATTRIBUTE}: there are no {scope} statistics of channel {channel!r}; {remedy}"
            )
        if not isinstance(found, Mapping):
            raise UserError(f"{path}: is {shorten(repr(found))}, not a JSON object; {remedy}")
    known = parse(ChannelStatistics, found, path, remedy).model_dump(exclude_none=True)
    return {name: value for name, value in known.items() if type(value) in (int, float)}  # VisCy writes further ones


def with_statistics(old: Any, statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The attribute's value with statistics put into it by channel and scope (of time points: by "0", "1" ...); what
    else is there stays."""
    new = dict(old) if isinstance(old, Mapping) else {}
    for channel, by_scope in statistics.items():
        before = new.get(channel)
        scopes = {_KEYS[scope]: values for scope, values in by_scope.items()}
        new[channel] = {**(before if isinstance(before, Mapping) else {}), **scopes}
    return new
