"""One plate predicted by several processes that start at the same time, start late, or are killed: the same plate."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from local_network import save_checkpoint
from test_plates import DRIVER, finished_lines, finished_positions, is_complete, make_plate, pixels, records

from vsjax.errors import UserError
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.plates import derived_plate
from vsjax.plates.reader import open_plate
from vsjax.predict import main

NAMES = [f"{row}/{column}/{field}" for row in "AB" for column in range(2) for field in range(3)]


@pytest.fixture
def work(tmp_path):
    """A plate P.zarr, a checkpoint, and whole.zarr: what one process makes of it."""
    make_plate(tmp_path / "P.zarr", names=NAMES, shape=(2, 1, 4, 32, 32))
    save_checkpoint(tmp_path / "run", radius=4)
    predict_plate(load(tmp_path / "run"), tmp_path / "P.zarr", tmp_path / "whole.zarr")
    return tmp_path


def start(work, *options, environment=()):
    command = [sys.executable, DRIVER, "--checkpoint", work / "run", "--input", work / "P.zarr"]
    command += ["--output", work / "S.zarr", *options]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **dict(environment)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=variables, **pipes)


def end(process):
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def documents(folder):
    """Every document with its content; where it lies and which run wrote it aside."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("zarr.json")}


def written(folder, names):
    """Every file of the positions with the moment and the inode it was written to: writing it again changes both."""
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def assert_same_plate(work):
    one, two = pixels(work / "whole.zarr"), pixels(work / "S.zarr")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert documents(work / "whole.zarr") == documents(work / "S.zarr")
    assert is_complete(work / "S.zarr")


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_start_together(work, count):
    """Each predicts its own positions and no other; the plate is, to the byte of every document, what one makes."""
    started = [start(work, "--process", i, "--processes", count) for i in range(count)]
    ends = [end(process) for process in started]
    assert [status for status, _, _ in ends] == [0] * count, ends
    for index, (_, stdout, _) in enumerate(ends):
        assert finished_lines(stdout) == set(NAMES[index::count])
    assert any("S.zarr is complete" in stdout for _, stdout, _ in ends)
    assert_same_plate(work)


def test_one_is_killed_and_started_again_alone(work):
    """The others go on, the plate is not complete without it, and nothing that was finished is written again."""
    first, second = (start(work, "--process", i, "--processes", 2) for i in range(2))
    mine = set(NAMES[1::2])
    while second.poll() is None and not finished_positions(work / "S.zarr") & mine:
        time.sleep(0.001)
    second.kill()
    end(second)
    assert end(first)[0] == 0
    if not is_complete(work / "S.zarr"):  # else it was quicker than the kill
        before = written(work / "S.zarr", finished_positions(work / "S.zarr"))
        status, stdout, stderr = end(start(work, "--process", 1, "--processes", 2))
        assert status == 0, stderr
        assert "S.zarr is complete" in stdout
        assert before == {path: written(work / "S.zarr", NAMES)[path] for path in before}
    assert_same_plate(work)


def test_another_number_of_processes_goes_on(work):
    """What one of two left is taken over by a single process with the command as it was."""
    assert end(start(work, "--process", 0, "--processes", 2))[0] == 0
    assert finished_positions(work / "S.zarr") == set(NAMES[0::2])
    assert not is_complete(work / "S.zarr")
    status, stdout, stderr = end(start(work))
    assert status == 0, stderr
    assert finished_lines(stdout) == set(NAMES[1::2])
    assert_same_plate(work)


def test_the_others_wait_for_the_first_and_a_late_one_finds_nothing_to_do(work):
    late = {"SLURM_PROCID": "1", "SLURM_NTASKS": "20"}.items()
    waiting = start(work, "--cluster", environment=late)
    while "waiting until process 0" not in (line := waiting.stderr.readline()):
        assert line, "it ended without waiting"
    assert not (work / "S.zarr").exists()
    predictor = load(work / "run")
    predict_plate(predictor, work / "P.zarr", work / "S.zarr", process=0, processes=20)
    status, stdout, _ = end(waiting)
    assert status == 0
    assert finished_lines(stdout) == {NAMES[1]}
    for process in range(2, 20):
        summary = predict_plate(predictor, work / "P.zarr", work / "S.zarr", process=process, processes=20)
    assert summary == type(summary)(made=0, finished_before=0, complete=True)
    again = predict_plate(predictor, work / "P.zarr", work / "S.zarr", process=1, processes=20)
    assert again == type(again)(made=0, finished_before=1, complete=True)
    assert_same_plate(work)


def test_refusals(work, monkeypatch):
    base = ["--checkpoint", work / "run", "--input", work / "P.zarr", "--output", work / "S.zarr"]

    def refuse(message, *options):
        with pytest.raises(UserError, match=message):
            main([str(part) for part in (*base, *options)])
        assert not (work / "S.zarr").exists()

    refuse("both --process I .* --processes N", "--process", 1)
    refuse("--process 2 must be from 0 to 1", "--process", 2, "--processes", 2)
    refuse("SLURM_PROCID and SLURM_NTASKS are not set", "--cluster")
    refuse("leave --process, --processes out", "--cluster", "--process", 0, "--processes", 2)
    refuse("delete each other's work; remove .*S.zarr first", "--overwrite", "--process", 0, "--processes", 2)
    monkeypatch.setattr(derived_plate, "_PATIENCE_S", 0)
    refuse("process 0 has not started it", "--process", 1, "--processes", 2)


def test_tile_and_batch_are_chosen_once_for_all(work):
    """A process with other free memory takes what the first one that met the shape has recorded."""
    predict_plate(load(work / "run"), work / "P.zarr", work / "S.zarr", process=0, processes=2)
    (record,) = records(work / "S.zarr").values()
    assert record["resolved"] == {"4x32x32": {"tile": [32, 32], "batch_size": 2, "space": 1}}
    other = load(work / "run")
    predict_stack, tiles = other.predict_stack, []
    other.resolve = None  # it must not choose
    other.predict_stack = lambda *rest, **named: (tiles.append(rest[3].tile), predict_stack(*rest, **named))[1]
    predict_plate(other, work / "P.zarr", work / "S.zarr", process=1, processes=2)
    assert set(tiles) == {(32, 32)}
    assert_same_plate(work)


def test_a_large_plate_is_not_held(tmp_path):
    """Beginning takes every position in hand but keeps none: what is alive does not grow with their number."""
    import gc

    from vsjax.plates.position import Position

    names = [f"A/{well}/{field}" for well in range(30) for field in range(20)]
    make_plate(tmp_path / "P.zarr", names=names, shape=(1, 1, 4, 4, 4))
    save_checkpoint(tmp_path / "run", radius=1)
    predictor, alive = load(tmp_path / "run"), []

    def stop(*_, **__):
        gc.collect()
        alive.append(sum(isinstance(thing, Position) for thing in gc.get_objects()))
        raise UserError("seen enough")

    predictor.predict_stack = stop
    with pytest.raises(UserError, match="seen enough"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    assert list(open_plate(tmp_path / "S.zarr").position_names) == names
    assert alive[0] < 100, "positions are being held"
