"""Processes that do not talk leave parts, and the last one finds them all."""

from vsjax.plates.parts import Parts
from vsjax.plates.storage import Store


def parts(path, process, **identity):
    return Parts(Store(path), "statistics", process, 2, identity)


def test_the_last_one_finds_all(tmp_path):
    parts(tmp_path, 1, grid=32).write({"count": 3})
    assert parts(tmp_path, 1, grid=32).gather() is None
    parts(tmp_path, 0, grid=32).write({"count": 5})
    assert parts(tmp_path, 1, grid=32).gather() == [{"count": 5}, {"count": 3}]


def test_parts_of_another_command_count_as_missing(tmp_path):
    for process in (0, 1):
        parts(tmp_path, process, grid=32).write({})
    parts(tmp_path, 0, grid=16).write({"new": True})
    assert parts(tmp_path, 0, grid=16).gather() is None


def test_cleared_parts_are_gone_and_nothing_else(tmp_path):
    for process in (0, 1):
        parts(tmp_path, process).write({})
    other = tmp_path / ".vsjax" / "statistics" / "0_of_20.json"
    other.write_text("{}")
    parts(tmp_path, 0).clear()
    parts(tmp_path, 0).clear()
    assert list((tmp_path / ".vsjax" / "statistics").iterdir()) == [other]
