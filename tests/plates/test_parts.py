"""Processes that do not talk leave parts, and the last one finds them all."""

import json

import pytest

from vsjax.errors import UserError
from vsjax.plates.parts import Parts
from vsjax.plates.storage import Store
from vsjax.schema import Document


class Found(Document):
    count: int = 0


def parts(path, process, **identity):
    return Parts(Store(path), Found, "statistics", process, 2, identity)


def test_the_last_one_finds_all(tmp_path):
    parts(tmp_path, 1, grid=32).write(Found(count=3))
    assert parts(tmp_path, 1, grid=32).gather() is None
    parts(tmp_path, 0, grid=32).write(Found(count=5))
    assert parts(tmp_path, 1, grid=32).gather() == [Found(count=5), Found(count=3)]


def test_parts_of_another_command_count_as_missing(tmp_path):
    for process in (0, 1):
        parts(tmp_path, process, grid=32).write(Found())
    parts(tmp_path, 0, grid=16).write(Found())
    assert parts(tmp_path, 0, grid=16).gather() is None


def test_cleared_parts_are_gone_and_nothing_else(tmp_path):
    """Those of other commands and of other numbers of processes too, and the parts of parts."""
    for process in (0, 1):
        parts(tmp_path, process).write(Found())
    Parts(Store(tmp_path), Found, "statistics", 7, 20).write(Found())
    Parts(Store(tmp_path), Found, "statistics/time_0", 0, 2).write(Found())
    Parts(Store(tmp_path), Found, "statistics_of_others", 0, 2).write(Found())
    parts(tmp_path, 0).clear()
    parts(tmp_path, 0).clear()
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["statistics_of_others"]


def test_only_its_own_part_is_withdrawn(tmp_path):
    for process in (0, 1):
        parts(tmp_path, process).write(Found(count=process))
    parts(tmp_path, 0, another="command").withdraw()
    assert parts(tmp_path, 1).gather() is None
    assert parts(tmp_path, 1).gather([1]) == [Found(count=1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": {"count": "x"}}, r"content.count: is 'x'; it must be a valid integer"),
        ({"content": []}, r"content: is \(\); it must be a valid dictionary"),
        ({"mine": 1}, "mine: there is no such field"),
        ({"identity": None}, "identity: is None"),
    ],
)
def test_a_damaged_part_is_named(tmp_path, change, message):
    for process in (0, 1):
        parts(tmp_path, process, channels=["a"]).write(Found())
    assert parts(tmp_path, 0, channels=["a"]).gather() == [Found(), Found()]
    document = tmp_path / ".vsjax/statistics/1_of_2.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), **change}))
    with pytest.raises(UserError, match=rf"1_of_2.json: {message}.*remove this file"):
        parts(tmp_path, 0, channels=["a"]).gather()
