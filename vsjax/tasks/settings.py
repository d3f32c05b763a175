"""Sections of a config as the dataclass that they were made from."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from vsjax.errors import UserError

_T = TypeVar("_T")


def settings_of(kind: type[_T], where: str, section: Mapping[str, Any]) -> _T:
    """A section (all but its `name`) as a frozen dataclass; a field that is a dataclass is a section of its own.

    Args:
        kind: the dataclass, whose defaults hold for what is not given.
        where: the section's name in the config, for messages.
        section: the fields.

    Raises:
        UserError: a field does not exist.
    """
    given = {name: value for name, value in section.items() if name != "name"}
    types, known = get_type_hints(kind), [entry.name for entry in fields(kind)]
    for name in given:
        if name not in known:
            raise UserError(f"{where}.{name}: there is no such field; there are {', '.join(known) or 'none'}")
    return kind(
        **{
            name: settings_of(types[name], f"{where}.{name}", value) if is_dataclass(types[name]) else _plain(value)
            for name, value in given.items()
        }
    )


def _plain(value: Any) -> Any:
    """Lists become tuples, so that the dataclass can be hashed."""
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value
