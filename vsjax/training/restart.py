"""When a run may resume from its checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsjax.errors import UserError

# What may change between the two halves of a run without changing its numbers.
FREE = {
    "train": ("log_every", "save_every"),
    "data": ("plates", "read_threads", "prefetch"),
    "mesh": ("data", "fsdp", "space"),
    "predict": ("tta",),
}


def check_same_config(saved: Mapping[str, Any], wanted: Mapping[str, Any], workdir: Path) -> None:
    """Refuse to continue a run with a config that would change its numbers.

    Raises:
        UserError: naming the first field that differs, both values, and the remedy.
    """
    old, new = (_flat(json.loads(json.dumps(config))) for config in (saved, wanted))
    free = {f"{section}.{name}" for section, names in FREE.items() for name in names}
    for field in sorted((set(old) | set(new)) - free):
        if old.get(field) != new.get(field):
            raise UserError(
                f"{workdir}: config.{field}={new.get(field)!r} but the run to be continued has {old.get(field)!r}; "
                "use its value, or another --workdir"
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
