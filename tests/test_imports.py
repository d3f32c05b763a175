"""The table in `vsjax/__init__.py` says what may import what; the code keeps to it."""

import ast
import re
from pathlib import Path

import pytest

import vsjax

ROOT = Path(vsjax.__file__).parent
ROWS = [line.split() for line in re.findall(r"(?m)^ {4}(\w[\w ]*)$", vsjax.__doc__)]
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(source):
    """Rooms of vsjax that a module imports, wherever in it; `from vsjax import x` imports the room x."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names] if node.module == "vsjax" else [node.module or ""]
        yield from (name.split(".")[1] for name in names if name.startswith("vsjax."))


def forbidden(room, source):
    return sorted({other for other in imported_rooms(source) if other != room and ROW_OF[other] >= ROW_OF[room]})


def test_every_room_stands_in_the_table_once():
    assert sorted(room for row in ROWS for room in row) == sorted({room_of(path) for path in FILES})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    assert forbidden(room_of(path), path.read_text()) == []


def test_it_sees_an_import_that_goes_back():
    source = "def late():\n    from vsjax.inference.predictor import load\n    from vsjax import train, errors\n"
    assert forbidden("data", source) == ["inference", "train"]
