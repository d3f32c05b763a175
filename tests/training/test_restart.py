"""Which folder may hold a run: nothing that is read, or that somebody else wrote, is damaged or mixed with it."""

import os

import pytest

from vsjax.errors import UserError
from vsjax.training.restart import check_workdir

LINE = '{"step": 2, "train/loss": 1.0}\n'


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def everything(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.fixture
def place(tmp_path):
    """A plate that is trained on, another one, an old zarr group, and a run."""
    write(tmp_path / "P.zarr" / "zarr.json", "{}")
    write(tmp_path / "measured.zarr" / ".zattrs", "{}")
    write(tmp_path / "file", "mine")
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("P.zarr", "--workdir and the input .* lie in one another"),
        ("P.zarr/run", "--workdir and the input .* lie in one another"),
        (".", "--workdir and the input .* lie in one another"),
        ("measured.zarr", "lies in .*measured.zarr, which is a zarr hierarchy"),
        ("measured.zarr/A/1/run", "lies in .*measured.zarr, which is a zarr hierarchy"),
        ("file", "file: is no folder"),
        ("file/run", "file is no folder"),
        ("checkpoints/best/4", "lies in the checkpoints of a run"),
        ("weights", "config.init.checkpoint"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_where_no_run_may_lie(place, workdir, message):
    before = everything(place)
    with pytest.raises(UserError, match=message) as error:
        check_workdir(place / workdir, [str(place / "P.zarr")], str(place / "weights"))
    assert "choose another" in str(error.value)
    assert everything(place) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metrics.jsonl": '{"epoch": 1}\n'}, "metrics.jsonl: is not the log of a run"),
        ({"metrics.jsonl/x": ""}, "metrics.jsonl: is no file"),
        ({"model.txt/x": ""}, "model.txt: is no file"),
        ({"images": "x"}, "images: is no folder"),
        ({"tensorboard": "x"}, "tensorboard: is no folder"),
        ({"checkpoints": "x"}, "checkpoints: is no folder"),
        ({"checkpoints/last": "x"}, "checkpoints/last: is no folder"),
        ({"images/measured.tif": "x"}, "holds images/measured.tif but no metrics.jsonl"),
        ({"checkpoints/epoch=3.ckpt": "x"}, "holds checkpoints/epoch=3.ckpt but no metrics.jsonl"),
        ({"checkpoints/best/0/manifest.json": "x"}, "holds checkpoints/best but no metrics.jsonl"),
    ],
)
def test_what_is_no_run(tmp_path, files, message):
    for name, text in files.items():
        write(tmp_path / name, text)
    before = everything(tmp_path)
    with pytest.raises(UserError, match=message):
        check_workdir(tmp_path, [], "")
    assert everything(tmp_path) == before


def test_a_log_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="is no file"):
        check_workdir(tmp_path, [], "")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"slurm-17.out": "x", "notes/today.txt": "x"},
        {"metrics.jsonl": ""},
        {"metrics.jsonl": LINE[:5], "images/a.png": "x"},
        {"metrics.jsonl": LINE, "images/a.png": "x", "checkpoints/best/2/manifest.json": "x", "model.txt": "x"},
        {"checkpoints/last/4/manifest.json": "x", "metrics.jsonl": "cut", "images/a.png": "x"},
    ],
)
def test_where_a_run_may_lie(tmp_path, files):
    for name, text in files.items():
        write(tmp_path / "run" / name, text)
    write(tmp_path / "P.zarr" / "zarr.json", "{}")
    check_workdir(tmp_path / "run", [str(tmp_path / "P.zarr")], str(tmp_path / "other"))
