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
    """Those of other commands and of other numbers of processes too, and the parts of parts."""
    for process in (0, 1):
        parts(tmp_path, process).write({})
    Parts(Store(tmp_path), "statistics", 7, 20).write({})
    Parts(Store(tmp_path), "statistics/time_0", 0, 2).write({})
    Parts(Store(tmp_path), "statistics_of_others", 0, 2).write({})
    parts(tmp_path, 0).clear()
    parts(tmp_path, 0).clear()
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["statistics_of_others"]


def test_only_its_own_part_is_withdrawn(tmp_path):
    for process in (0, 1):
        parts(tmp_path, process).write({"of": process})
    parts(tmp_path, 0, another="command").withdraw()
    assert parts(tmp_path, 1).gather() is None
    assert parts(tmp_path, 1).gather([1]) == [{"of": 1}]
