"""No file over 400 lines and no function over 60, so that each is read in one go."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("vsjax", "scripts", "configs") for path in (ROOT / folder).rglob("*.py"))
LONGER = {("vsjax/training/loop.py", "train")}  # the loop: everything in the order in which it happens


def long_functions(source, limit=60):
    """Names of the functions and methods that take more than `limit` lines, from `def` to the last."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name for node in nodes if node.end_lineno - node.lineno >= limit}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path):
    source, name = path.read_text(), path.relative_to(ROOT).as_posix()
    assert len(source.splitlines()) <= 400
    assert {(name, function) for function in long_functions(source)} <= LONGER


def test_it_sees_a_long_function():
    source = (
        "class A:\n    def long(self):\n" + "        x = 1\n" * 60 + "\n    def short(self):\n" + "        x = 1\n" * 59
    )
    assert long_functions(source) == {"long"}
