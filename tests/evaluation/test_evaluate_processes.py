"""One evaluation by several processes that do not talk, are killed and started again: the same report."""

import subprocess
import sys
import time
from pathlib import Path

import areas
import pytest
from areas import Areas
from small_plates import NAMES, write
from tqdm import tqdm

from vsjax.errors import UserError
from vsjax.evaluate import main
from vsjax.evaluation import report
from vsjax.evaluation.comparison import evaluate


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(work, output, process=0, processes=1, level=Areas(), **options):  # noqa: B008 (it is frozen)
    share = {"process": process, "processes": processes}
    plates = work / "S.zarr", work / "L.zarr"
    return evaluate(*plates, work / output, levels=["pixel", level], labels="blobs", **share, **options)


def start(work, output, process, processes, pause):
    command = [sys.executable, areas.__file__, work / "S.zarr", work / "L.zarr", work / output]
    command = [str(part) for part in (*command, process, processes, pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


@pytest.fixture
def work(tmp_path, labelled, prediction) -> Path:
    """The plates S.zarr and L.zarr, and what one process makes of them in `one`."""
    run(tmp_path, "one")
    return tmp_path


@pytest.mark.parametrize("processes", [2, 3])
def test_as_one_process_would(work, processes):
    """Whatever their order; the last writes the report, and nothing else stays in the folder."""
    for process in reversed(range(processes)):
        assert not (work / "r" / "pixel.csv").exists()
        done = run(work, "r", process, processes)
        assert done.complete == (process == 0)
    assert done.summary.keys() == {"pixel", "areas"}
    assert files(work / "r") == files(work / "one")
    again = run(work, "r", 1, processes)
    assert (again.complete, again.summary) == (True, {})
    assert files(work / "r") == files(work / "one")


def test_started_together(work):
    """The report says how long the level paused, the tables do not."""
    ends = [process.communicate() for process in [start(work, "r", number, 2, 0.01) for number in range(2)]]
    assert "True" in [stdout.strip() for stdout, _ in ends], ends
    tables, want = files(work / "r"), files(work / "one")
    assert tables.keys() == want.keys()
    assert all(tables[name] == want[name] for name in want if name != "metrics.json")


def test_one_is_killed_and_started_again(work):
    """It goes on where it was killed, within a line even; then the report is as undisturbed ones write it."""
    killed = start(work, "slow", 1, 2, 0.1)
    while killed.poll() is None and lines_of(work / "slow") < 2:
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    (journal,) = (work / "slow").rglob("1_of_2.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"pixel": {"values": {"pea')
    before = journal.read_bytes().rpartition(b"\n")[0]
    assert 2 <= before.count(b"\n") + 1 < 6
    assert not run(work, "slow", 1, 2, level=Areas(0.1)).complete
    assert journal.read_bytes().startswith(before)
    assert lines_of(work / "slow") == 6
    assert run(work, "slow", 0, 2, level=Areas(0.1)).complete
    tables, want = files(work / "slow"), files(work / "one")
    assert all(tables[name] == want[name] for name in want if name != "metrics.json")


def test_a_late_process_that_is_killed_spoils_no_report(work, monkeypatch):
    """Both find all parts; 0 completes the report after 1 has looked for one, then 1 is killed at its start."""
    is_complete, events = report.is_complete, []

    class Killed(Areas):
        def summarize(self, results):
            if events == ["0 is quicker", "0 is done"]:
                raise KeyboardInterrupt
            return super().summarize(results)

    def late(output, about):
        found = is_complete(output, about)
        if not events and len(list(output.rglob("*_of_2.json"))) == 2:
            events.append("0 is quicker")
            assert run(work, "r", 0, 2, level=Killed()).complete
            events.append("0 is done")
        return found

    assert not run(work, "r", 0, 2, level=Killed()).complete
    monkeypatch.setattr(report, "is_complete", late)
    with pytest.raises(KeyboardInterrupt):
        run(work, "r", 1, 2, level=Killed())
    assert events == ["0 is quicker", "0 is done"]
    assert files(work / "r") == files(work / "one")


def test_progress_is_shown_where_it_is_asked_for(work, capfd):
    """From where it was killed on; a bar is closed before the error leaves."""
    bars = []

    class Bar(tqdm):
        def close(self):
            if not self.disable:  # closed twice, it is disabled
                bars.append((self.initial, self.n, self.total))
            super().close()

    class Broken(Areas):
        def measure(self, pair):
            if pair.position == "B/2/0":
                raise UserError("broken")
            return super().measure(pair)

    with pytest.raises(UserError, match="broken") as error:
        run(work, "r", level=Broken(), progress=Bar)
    assert error.traceback
    assert bars == [(0, 8, 12)]
    run(work, "r", progress=Bar)
    assert bars[-1] == (8, 12, 12)
    capfd.readouterr()
    run(work, "quiet")
    assert capfd.readouterr() == ("", "")


def test_the_program_says_what_is_complete(work, monkeypatch, capsys):
    command = ["evaluate", "--prediction", work / "S.zarr", "--target", work / "L.zarr", "--output", work / "r"]

    def call(*flags):
        monkeypatch.setattr(sys, "argv", [str(part) for part in (*command, *flags)])
        main()
        return capsys.readouterr().out.splitlines()

    lines = call("--process", 0, "--processes", 2)
    assert lines == ["process 0 of 2 is done", f"report: {work / 'r'} is not complete yet, the other processes go on"]
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    lines = call("--cluster")
    assert lines[0].startswith("channel")
    assert lines[-1] == f"report: {work / 'r'}"
    assert (work / "r" / "metrics.json").exists()


def test_another_evaluation_in_the_same_folder_is_refused(work, predicted):
    """What another prediction, selection or level began is neither mixed in nor overwritten."""
    run(work, "r", 0, 2)
    before = files(work / "r")
    with pytest.raises(UserError, match="exists and is not empty"):
        run(work, "r", 1, 2, channels=["nuclei"])
    write(work / "other.zarr", predicted, NAMES)
    with pytest.raises(UserError, match="exists and is not empty"):
        evaluate(work / "other.zarr", work / "L.zarr", work / "r", process=1, processes=2)
    with pytest.raises(UserError, match=r"--overwrite: 2 processes would delete each other's work; remove .*r first"):
        run(work, "r", 1, 2, overwrite=True)
    assert files(work / "r") == before


def test_overwriting_measures_anew(work, predicted):
    """What an interrupted evaluation left is not used: the plate of the same name holds other pixels by now."""

    class Broken(Areas):
        def measure(self, pair):
            if pair.position == "B/2/0":
                raise UserError("broken")
            return super().measure(pair)

    with pytest.raises(UserError, match="broken"):
        run(work, "r", level=Broken())
    assert lines_of(work / "r") == 8
    (work / "S.zarr").rename(work / "old.zarr")
    write(work / "S.zarr", {name: stack[:, ::-1].copy() for name, stack in predicted.items()}, NAMES)
    run(work, "r", overwrite=True)
    run(work, "fresh")
    assert files(work / "r") == files(work / "fresh")
    assert files(work / "r")["pixel.csv"] != files(work / "one")["pixel.csv"]
