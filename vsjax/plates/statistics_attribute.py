"""Where intensity statistics stand in the attributes of a plate and its images: VisCy's layout, read and written here.

{"normalization": {channel: {"dataset_statistics": {...}, "fov_statistics": {...},
                             "timepoint_statistics": {"0": {...}, ...}}}}
"""

from collections.abc import Mapping
from typing import Any

from vsjax.errors import UserError

STATISTICS_ATTRIBUTE = "normalization"
_KEYS = {"dataset": "dataset_statistics", "fov": "fov_statistics", "timepoint": "timepoint_statistics"}

Statistics = dict[str, float]


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
        UserError: they are missing; names the command that makes them.
    """
    found: Any = attributes
    for key in (STATISTICS_ATTRIBUTE, channel, _KEYS[scope], *([str(time)] if scope == "timepoint" else [])):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise UserError(
            f"{where}: {STATISTICS_ATTRIBUTE}: there are no {scope} statistics of channel {channel!r}; "
            f"run python -m vsjax.preprocess --plate {plate_url}"
        )
    return dict(found)


def with_statistics(old: Any, statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The attribute's value with statistics put into it by channel and scope (of time points: by "0", "1" ...); what
    else is there stays."""
    new = dict(old) if isinstance(old, Mapping) else {}
    for channel, by_scope in statistics.items():
        before = new.get(channel)
        scopes = {_KEYS[scope]: values for scope, values in by_scope.items()}
        new[channel] = {**(before if isinstance(before, Mapping) else {}), **scopes}
    return new
