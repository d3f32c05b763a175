"""Typed documents: every field that vsjax reads from a file or a config has a type and a range, and one line says which
is wrong.

A document is a class below `Document`; whoever owns it reads it with `parse` and writes it with `model_dump`. A field's
`description` is its reason and stands in the line that refuses a value; a choice of values is a `Literal`; sequences
are tuples. `scripts/fuzz.py` finds the fields of a document in its class.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic
from ml_collections import ConfigDict

from vsjax.errors import UserError, shorten

DEEPEST_JSON = 64  # levels; the documents of NGFF and of vsjax have some ten
LONGEST_NAME = 4096  # characters
CONFIG_REMEDY = "correct it in the config file, or with --config.FIELD=VALUE"
_T = TypeVar("_T", bound=pydantic.BaseModel)

Share = Annotated[float, pydantic.Field(ge=0, le=1)]  # a probability, or a part of a whole
Name = Annotated[str, pydantic.Field(min_length=1, max_length=LONGEST_NAME)]  # of a channel, a file, ...


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same; a validator that refuses a name that is there twice."""
    if len(set(names)) != len(names):
        raise ValueError("name each once")
    return names


Names = Annotated[tuple[Name, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(each_once)]


class Document(pydantic.BaseModel):
    """Fields of fixed types, none unknown, none NaN or infinite; it cannot be changed."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def parse(kind: type[_T], value: Any, where: str, remedy: str) -> _T:
    """The typed form of a value that was read.

    Args:
        kind: the document's class.
        value: a mapping, with lists or tuples.
        where: what holds it, such as "a/zarr.json: vsjax" or "config.data"; "a/zarr.json:" where it is the whole file.
        remedy: what the user can do.

    Raises:
        UserError: a field is missing, unknown, or of the wrong type or range; the line names the first one.
    """
    try:
        return kind.model_validate(with_tuples(value))
    except pydantic.ValidationError as error:
        problem = _explain(error, kind)
        problem = f" {problem.lstrip('.: ')}" if where.endswith(":") else problem
        raise UserError(f"{where}{problem}; {remedy}") from error


def read_section(kind: type[_T], section: Any, where: str) -> _T:
    """A section of a config as its document; `where` is its name, such as "config.data". UserError as `parse`."""
    return parse(kind, section.to_dict() if isinstance(section, ConfigDict) else section, where, CONFIG_REMEDY)


def document_of(kind: type, leave_out: tuple[str, ...] = (), **further: Any) -> type[Document]:
    """A document with the fields of a dataclass: their annotations, ranges among them, and their defaults.
    `further` fields are those of `pydantic.create_model`."""
    missing, fields = dataclasses.MISSING, {}
    for field in dataclasses.fields(kind):
        if field.default_factory is not missing:
            default = pydantic.Field(default_factory=field.default_factory)
        else:
            default = ... if field.default is missing else field.default
        if field.name not in leave_out:
            fields[field.name] = (field.type, default)
    return pydantic.create_model(kind.__name__, __base__=Document, **further, **fields)


def parse_object(content: bytes | str, where: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file's content.

    Raises:
        UserError: it is no JSON, no object, or nested more than `DEEPEST_JSON` levels deep, which some readers do not
            survive; the line begins with `where`.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON ({shorten(str(error))}); {remedy}") from error
    if not isinstance(document, dict):
        raise UserError(f"{where}: holds a JSON {type(document).__name__}, not an object; {remedy}")
    level, depth = [document], 0
    while level := [item for value in level for item in _items(value)]:
        if (depth := depth + 1) > DEEPEST_JSON:
            raise UserError(f"{where}: is nested more than {DEEPEST_JSON} levels deep; {remedy}")
    return document


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON as vsjax writes it; numbers that it does not have (NaN, infinite) are null."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_item)
    except ValueError:
        text = json.dumps(_defined(value), indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character, which only the escapes of JSON can hold
        return json.dumps(json.loads(text), indent=indent).encode()


def with_tuples(value: Any) -> Any:
    """The same with tuples for lists, which is what documents have where JSON has lists, and Python's numbers for
    NumPy's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list | tuple) else value


def _item(number: Any) -> Any:
    """A number of NumPy's as Python's."""
    return number.item()


def _defined(value: Any) -> Any:
    """The same with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    value = value if isinstance(value, str | int | float | None) else _item(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _items(value: Any) -> list[Any]:
    """What is nested in a value."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in values if isinstance(item, dict | list)]


def _explain(error: pydantic.ValidationError, kind: type[pydantic.BaseModel]) -> str:
    """The first field that is wrong: ".batch_size: is 0; must be greater than or equal to 1 (patches per step)"."""
    first = error.errors(include_url=False)[0]
    path = first["loc"]
    name = "".join(f".{shorten(str(part))}" for part in path)
    reason = _reason(kind, path)
    reason = f" ({reason})" if reason else ""
    if first["type"] == "extra_forbidden":
        return f"{name}: there is no such field; there are {', '.join(_fields(_inner(kind, path[:-1]))) or 'none'}"
    if first["type"] == "missing":
        return f"{name}: is missing{reason}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"{name}: {message}"  # of several fields, which it names
    return f"{name}: is {_echo(first['input'])}; {message}{reason}"


def _echo(value: Any) -> str:
    try:
        return shorten(repr(value))
    except ValueError:  # an integer of more digits than Python prints
        return "too large a number"


def _fields(kind: Any) -> dict[str, Any]:
    return getattr(kind, "model_fields", {})


def _inner(kind: Any, path: tuple[int | str, ...]) -> Any:
    """The document that lies at a path in another, None where there is none."""
    for part in path:
        found = _fields(kind).get(part)
        kind = _document_in(found.annotation) if found else kind if _fields(kind) else None
    return kind


def _reason(kind: Any, path: tuple[int | str, ...]) -> str:
    """The description of the innermost field on a path."""
    reason = ""
    for end, part in enumerate(path):
        found = _fields(_inner(kind, path[:end])).get(part)
        reason = (found.description or "") if found else reason
    return reason


def _document_in(annotation: Any) -> Any:
    """The document in an annotation, such as that of `dict[str, Role]`."""
    if _fields(annotation):
        return annotation
    return next(filter(None, map(_document_in, getattr(annotation, "__args__", ()))), None)
