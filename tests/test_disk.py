"""Folders that one program at a time writes into."""

import multiprocessing
from pathlib import Path

import pytest

from vsjax.disk import alone_in
from vsjax.errors import UserError


def hold(folder, begun, end):
    with alone_in(folder):
        begun.set()
        end.wait(30)


def test_two_programs_do_not_write_into_one_folder(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    begun, end = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(tmp_path / "run", begun, end))
    other.start()
    assert begun.wait(30)
    with pytest.raises(UserError, match="run: another program is writing there"), alone_in(tmp_path / "run"):
        pass
    end.set()
    other.join(30)
    with alone_in(tmp_path / "run"):  # whoever ends, however, is out of the way
        assert (tmp_path / "run").is_dir()


def test_where_no_folder_can_be_made():
    with pytest.raises(UserError, match="cannot be made"), alone_in(Path("/proc/nothing/run")):
        pass
