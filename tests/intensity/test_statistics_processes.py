"""Statistics by several processes that do not talk: those of one."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from vsjax.errors import UserError
from vsjax.intensity.distribution import Distribution, DistributionRecord
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.schema import parse, to_json

EXACT = ("min", "max", "median", "iqr", "p1", "p5", "p95", "p99", "p95_p5", "p99_p1")


@pytest.fixture
def plates(tmp_path, zarr_plate):
    """Seven positions of unlike size and number of time points; one.zarr has the statistics of one process."""
    random = np.random.default_rng(0)
    shapes = [(1 + index % 3, 2, 2, 20 + index, 30) for index in range(7)]
    images = {f"A/{index}/0": random.gamma(2, 100 + index, shape).astype("f4") for index, shape in enumerate(shapes)}
    for name in ("one.zarr", "many.zarr"):
        zarr_plate(tmp_path / name, images, version="0.5", channels=["a", "b"])
    write_statistics(open_plate(tmp_path / "one.zarr"), grid=1)
    return tmp_path / "one.zarr", tmp_path / "many.zarr"


def assert_same(one, many):
    documents = sorted(path.relative_to(one) for path in one.rglob("zarr.json"))
    assert documents == sorted(path.relative_to(many) for path in many.rglob("zarr.json"))
    for path in documents:
        first, second = (json.loads((plate / path).read_text()).get("attributes", {}) for plate in (one, many))
        numbers, others = leaves(first.get("normalization", {})), leaves(second.get("normalization", {}))
        assert numbers.keys() == others.keys()
        for key, number in numbers.items():
            assert others[key] == (number if key[-1] in EXACT else pytest.approx(number, rel=1e-12))
    assert not [path for path in (many / ".vsjax").rglob("*") if path.is_file()], "parts are left over"


def leaves(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name, part in tree.items() for key, value in leaves(part, (*path, name)).items()}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_processes_give_what_one_gives(plates, monkeypatch, order):
    """Whoever is last writes what belongs to all, here with few time points in memory at once."""
    one, many = plates
    monkeypatch.setattr("vsjax.intensity.statistics._TABLES", 2)
    results = [write_statistics(open_plate(many), grid=1, process=number, processes=3) for number in order]
    assert results[:2] == [None, None]
    assert results[2]["a"]["median"] == open_plate(one).attributes["normalization"]["a"]["dataset_statistics"]["median"]
    assert_same(one, many)


def test_more_processes_than_positions(plates):
    one, many = plates
    for process in range(9):
        write_statistics(open_plate(many), grid=1, process=process, processes=9)
    assert_same(one, many)


def test_a_part_of_another_command_is_not_joined(plates):
    _, many = plates
    write_statistics(open_plate(many), grid=4, process=0, processes=2)
    assert write_statistics(open_plate(many), grid=1, process=1, processes=2) is None
    assert write_statistics(open_plate(many), grid=1, process=0, processes=2) is not None


def change(plate, position):
    array = zarr.open_array(plate / position / "0", mode="r+")
    array[...] = array[...] + 1000


def test_parts_of_an_earlier_run_are_not_joined(plates):
    """One of two was killed, one alone finished, the pixels changed: two processes begin from nothing."""
    one, many = plates
    write_statistics(open_plate(many), grid=1, process=0, processes=2)
    write_statistics(open_plate(many), grid=1)
    assert_same(one, many)
    for plate in plates:
        change(plate, "A/0/0")
    assert write_statistics(open_plate(many), grid=1, process=1, processes=2) is None
    assert write_statistics(open_plate(many), grid=1, process=0, processes=2)
    write_statistics(open_plate(one), grid=1)
    assert_same(one, many)


def test_a_process_withdraws_its_part_before_it_fails(plates):
    _, many = plates
    write_statistics(open_plate(many), grid=1, process=0, processes=2)
    change(many, "A/0/0")
    (many / "A/6/0/0/zarr.json").rename(many / "hidden")
    with pytest.raises(UserError, match=r"A/6/0/0.*does not exist"):
        write_statistics(open_plate(many), grid=1, process=0, processes=2)
    (many / "hidden").rename(many / "A/6/0/0/zarr.json")
    assert write_statistics(open_plate(many), grid=1, process=1, processes=2) is None


def test_a_part_of_other_positions_is_not_joined(plates, zarr_image):
    """An image of process 0 was replaced by one of another shape since it left its part."""
    _, many = plates
    write_statistics(open_plate(many), grid=1, process=0, processes=2)
    group = zarr.open_group(many / "A/0/0", mode="w", zarr_format=3)
    zarr_image(group, np.ones((1, 2, 2, 20, 31), "f4"), "tczyx", "0.5", ["a", "b"])
    assert write_statistics(open_plate(many), grid=1, process=1, processes=2) is None
    assert write_statistics(open_plate(many), grid=1, process=0, processes=2)


def start(plate, process):
    command = [sys.executable, "-m", "vsjax.preprocess", "--plate", plate, "--grid", 1, "--workers", 1]
    command += ["--process", process, "--processes", 3]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_is_killed_and_started_again(plates):
    """The others end without it; it alone, started again, completes the plate."""
    one, many = plates
    running = [start(many, process) for process in range(3)]
    document = many / "A" / "1" / "0" / "zarr.json"
    while running[1].poll() is None and "fov_statistics" not in document.read_text():
        time.sleep(0.001)
    running[1].kill()
    ends = [process.communicate(timeout=120) for process in running]
    assert [running[0].returncode, running[2].returncode] == [0, 0], ends
    if any(path.is_file() for path in (many / ".vsjax").rglob("*")):  # else it was quicker than the kill
        assert running[1].returncode == -signal.SIGKILL
        again = start(many, 1)
        stdout, stderr = again.communicate(timeout=120)
        assert again.returncode == 0, stderr
        assert stdout.split()[0] == "channel"
    assert_same(one, many)


def test_a_bad_position_stops_its_process_only(plates):
    _, many = plates
    (many / "A/1/0/0/zarr.json").unlink()
    write_statistics(open_plate(many), grid=1, process=0, processes=2)
    with pytest.raises(UserError, match=r"A/1/0/0.*does not exist"):
        write_statistics(open_plate(many), grid=1, process=1, processes=2)
    assert "normalization" not in open_plate(many).attributes


@pytest.mark.parametrize("values", [[], [3, 3, 3], np.random.default_rng(0).normal(size=500)])
def test_a_distribution_survives_json(values):
    """Exactly, also where bits were dropped, and it merges as before."""
    distribution = Distribution.of(np.asarray(values, float), 64)
    copy = Distribution.of_record(
        parse(DistributionRecord, json.loads(to_json(distribution.record().model_dump())), "d", ""), 64
    )
    for each in (distribution, copy):
        each.merge(Distribution.of(np.arange(40.0), 64))
    assert distribution.statistics() == copy.statistics()
