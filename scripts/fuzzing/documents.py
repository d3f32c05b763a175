"""Mutations of a JSON document that know its structure: every path in it, and what may stand there."""

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scripts.fuzzing.tokens import any_token, short

Path = tuple[str | int, ...]
_MARK = "@@ a token stands here @@"


@dataclass(frozen=True)
class Change:
    """What was done to a document.

    Attributes:
        content: of the file now.
        path: where in the document.
        kind: "replaced", "deleted", "doubled", "swapped", "unknown", "inserted" or "renamed".
        token: the JSON text that stands there now, where one was put there.
    """

    content: bytes
    path: Path
    kind: str
    token: str = ""

    def __str__(self) -> str:
        """In words."""
        value = f" by {short(self.token)}" if self.token else ""
        return f"{write_path(self.path) or 'the document'} {self.kind}{value}"


def mutate(content: bytes, choose: random.Random, below: Path = ()) -> Change:
    """One random change at or below a path of the document."""
    document = json.loads(content)
    paths = [path for path in walk(document) if path[: len(below)] == below]
    path = choose.choice(paths)
    kinds = ["replaced"] * 6
    if path:
        kinds += ["deleted", "doubled", "swapped", "renamed"]
    if isinstance(get(document, path), dict | list):
        kinds += ["unknown", "inserted"]
    kind = choose.choice(kinds)
    if kind == "replaced":
        return replace(document, path, any_token(choose)[1])
    if kind in ("unknown", "inserted"):
        return _insert(document, path, choose, kind)
    return _move(document, path, choose, kind)


def replace(document: Any, path: Path, token: str) -> Change:
    """The document with a JSON text at a path."""
    if not path:
        return Change(token.encode("utf-8", "surrogatepass"), path, "replaced", token)
    document = copy.deepcopy(document)
    get(document, path[:-1])[path[-1]] = _MARK
    return Change(_encode(document, token), path, "replaced", token)


def _insert(document: Any, path: Path, choose: random.Random, kind: str) -> Change:
    inside = get(document, path)
    token = any_token(choose, with_broken=False)[1]
    if isinstance(inside, dict):
        inside["fuzz" if kind == "unknown" else ""] = _MARK
    else:
        inside.insert(choose.randint(0, len(inside)), _MARK)
    return Change(_encode(document, token), path, kind, token)


def _move(document: Any, path: Path, choose: random.Random, kind: str) -> Change:
    around, name = get(document, path[:-1]), path[-1]
    keys = list(around) if isinstance(around, dict) else list(range(len(around)))
    if kind == "deleted":
        del around[name]
    elif kind == "swapped":
        other = choose.choice(keys)
        around[name], around[other] = around[other], around[name]
    elif isinstance(around, list):
        around.append(copy.deepcopy(around[name]))
    elif kind == "renamed":
        around[f"{name}x"] = around.pop(name)
    else:  # a JSON object with the same key twice
        around["@@ twice @@"] = around[choose.choice(keys)]
        text = json.dumps(document).replace('"@@ twice @@"', json.dumps(name))
        return Change(text.encode(), path, kind)
    return Change(json.dumps(document).encode(), path, kind)


def walk(document: Any, path: Path = ()) -> Iterator[Path]:
    """Every path in a document, the empty one first."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from walk(value, (*path, key))


def get(document: Any, path: Path) -> Any:
    """What stands at a path."""
    for part in path:
        document = document[part]
    return document


def write_path(path: Path) -> str:
    """`a.b.0`."""
    return ".".join(map(str, path))


def _encode(document: Any, token: str) -> bytes:
    return json.dumps(document).replace(json.dumps(_MARK), token, 1).encode("utf-8", "surrogatepass")
