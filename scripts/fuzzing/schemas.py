"""Values for the fields of typed documents: at, just outside and far outside each bound, and of other types.

Nothing here knows a document by name: classes are found by walking those below pydantic's in vsjax, and where they
stand by looking which part of which JSON file each of them takes."""

import importlib
import json
import math
import pkgutil
import random
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic

from scripts.fuzzing.documents import Change, get, replace, walk
from scripts.fuzzing.documents import Path as Place
from scripts.fuzzing.tokens import JSON_TOKENS


def all_documents() -> dict[str, type[pydantic.BaseModel]]:
    """Every typed document of vsjax, by module and name."""
    import vsjax

    for module in pkgutil.walk_packages(vsjax.__path__, "vsjax."):
        importlib.import_module(module.name)
    found: dict[str, type[pydantic.BaseModel]] = {}
    left = [pydantic.BaseModel]
    while left:
        left += (below := left.pop().__subclasses__())
        found |= {
            f"{kind.__module__}:{kind.__qualname__}": kind for kind in below if kind.__module__.startswith("vsjax.")
        }
    return found


def find(name: str) -> type[pydantic.BaseModel]:
    """The class of `module:name`."""
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind)


def locate(folder: Path) -> list[dict[str, Any]]:
    """Where documents stand in the files below a folder: `{"file", "path", "kind"}`, only whole and outermost ones."""
    kinds = [
        (name, kind)
        for name, kind in all_documents().items()
        if sum(field.is_required() for field in kind.model_fields.values()) >= 2 or "config" in kind.model_fields
    ]
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20):
        try:
            content = json.loads(file.read_bytes())
        except ValueError:
            continue
        places: list[Place] = []
        for path in walk(content):
            part = get(content, path)
            if not isinstance(part, dict) or any(path[: len(outer)] == outer for outer in places):
                continue
            fits = [name for name, kind in kinds if takes(kind, part)]
            if fits:
                best = max(fits, key=lambda name: len(find(name).model_fields))
                places.append(path)
                found.append({"file": str(file.relative_to(folder)), "path": list(path), "kind": best})
    return found


def takes(kind: type[pydantic.BaseModel], value: Any) -> bool:
    """Whether a document is one of this class."""
    from vsjax.schema import with_tuples

    for form in (value, with_tuples(value)):  # lists where the class has lists, tuples where it has these
        try:
            kind.model_validate(form)
        except Exception:
            continue
        return True
    return False


def fields(kind: Any, value: Any, path: Place = ()) -> Iterator[tuple[Place, Any, tuple[Any, ...]]]:
    """Every field of a document and of those in it: its path, its annotation and its bounds."""
    for name, info in kind.model_fields.items():
        yield (*path, name), info.annotation, tuple(info.metadata)
        inner = inner_document(info.annotation)
        part = value.get(name) if isinstance(value, Mapping) else None
        if inner is None or part is None:
            continue
        if get_origin(info.annotation) is dict:
            for key, item in part.items():
                yield from fields(inner, item, (*path, name, key))
        elif isinstance(part, list | tuple):
            for number, item in enumerate(part):
                yield from fields(inner, item, (*path, name, number))
        else:
            yield from fields(inner, part, (*path, name))


def experiment_fields(task: str, model: str, config: Mapping[str, Any]) -> Iterator[tuple[Place, Any, tuple[Any, ...]]]:
    """Every field of the config of an experiment with this task and network, from their documents."""
    from vsjax.models.registry import network_document
    from vsjax.runtime.experiment import Experiment
    from vsjax.tasks.registry import find_task

    kinds = {"model": network_document(model, "config.model"), "task": find_task(task, "config.task").Settings}
    for place, annotation, bounds in fields(Experiment, config):
        if place[0] not in kinds or place == (place[0],):
            yield place, annotation, bounds
    for section, kind in kinds.items():
        for place, annotation, bounds in fields(kind, kind(name={"model": model, "task": task}[section]).model_dump()):
            yield (section, *place), annotation, bounds


def allows(annotation: Any, bounds: tuple[Any, ...], value: Any) -> bool:
    """Whether a field takes a value."""
    from vsjax.schema import Document, with_tuples

    field = (annotation, pydantic.Field()) if not bounds else (annotation, *bounds)
    kind = pydantic.create_model("One", __base__=Document, value=(Annotated[field], ...))
    try:
        kind.model_validate({"value": with_tuples(value)})
    except (pydantic.ValidationError, RecursionError):
        return False
    return True


def inner_document(annotation: Any) -> Any:
    """The document in an annotation, None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next(filter(None, map(inner_document, get_args(annotation))), None)


def change(content: bytes, below: Place, kind: str, choose: random.Random) -> Change:
    """One random change of a field of the document of this class that lies at a path."""
    document = json.loads(content)
    place, annotation, bounds = choose.choice(list(fields(find(kind), get(document, below))))
    return replace(document, (*below, *place), tokens(annotation, bounds, choose))


def tokens(annotation: Any, bounds: tuple[Any, ...], choose: random.Random) -> str:
    """The JSON text of a value for a field: near its bounds, or of another type."""
    near = list(_near(annotation, bounds))
    if near and choose.random() < 0.6:
        return choose.choice(near)
    return choose.choice(list(JSON_TOKENS.values()))


def _near(annotation: Any, bounds: tuple[Any, ...]) -> Iterator[str]:
    """Values that a field's annotation suggests."""
    if hasattr(annotation, "__metadata__"):
        bounds, annotation = (*bounds, *annotation.__metadata__), annotation.__origin__
    origin, inside = get_origin(annotation), get_args(annotation)
    limits = [
        getattr(bound, name) for bound in _flat(bounds) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)
    ]
    for limit in limits:
        step = 1 if isinstance(limit, int) else max(abs(limit), 1) * 1e-9
        yield from (
            json.dumps(value) for value in (limit, limit - step, limit + step, limit * 1e9 + 1, -limit * 1e9 - 1)
        )
        if math.isfinite(limit):
            yield json.dumps(float(limit))
    if origin is Literal:
        for value in inside:
            yield from (json.dumps(value), json.dumps(f"{value}x"), json.dumps(str(value).upper()), json.dumps([value]))
    elif origin in (Union, types.UnionType):
        for part in inside:
            yield from _near(part, bounds)
    elif origin in (tuple, list) and inside:
        item = list(_near(inside[0], ()))[:6] or ["1"]
        yield from (
            "[]",
            f"[{','.join(item)}]",
            f"[{item[0]}]",
            f"[{','.join(item[:1] * 9)}]",
            "[null]",
            "[[]]",
            "[-1, -1, -1]",
        )
    elif origin is dict:
        yield from ("{}", '{"fuzz": 1}', '{"": {}}', '{"0": null}')
    elif annotation is bool:
        yield from ("0", "1", '"true"', "null")
    elif annotation in (int, float):
        yield from ("0", "-1", "1", "1.5", str(2**31), "1e308", "1e999", "NaN", "true", '"1"')
    elif annotation is str:
        yield from ('""', '"x"', "1", "null", JSON_TOKENS["long text"], JSON_TOKENS["control characters"])


def _flat(bounds: tuple[Any, ...]) -> Iterator[Any]:
    for bound in bounds:
        yield from getattr(bound, "metadata", ()) or (bound,)
