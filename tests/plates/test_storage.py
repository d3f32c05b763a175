"""Addresses: which lie in one another, and what a store does when nobody answers."""

import importlib
import os
import socket
import time

import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.plates.reader import open_plate
from vsjax.plates.storage import check_apart, kvstore_spec, local_output


@pytest.mark.parametrize(
    ("source", "output", "refused"),
    [
        ("P.zarr", "P.zarr/", True),
        ("P.zarr", "P.zarr/A/run", True),
        ("P.zarr/A", "P.zarr", True),
        ("P.zarr", "Q/../P.zarr", True),
        ("file://{here}/P.zarr", "P.zarr/x", True),
        ("{here}/P.zarr", "link/x/y", True),
        ("link", "P.zarr", True),
        ("P.zarr", "P.zarr.new", False),
        ("P.zarr", "P", False),
        ("s3://b/P.zarr", "s3://b/P.zarr/A/S.zarr", True),
        ("gs://b/a/P.zarr/", "gs://b/a", True),
        ("gs://b/P.zarr", "gs://b/x/../P.zarr", True),
        ("s3://b/P.zarr", "gs://b/P.zarr", False),
        ("s3://b/P.zarr", "s3://c/P.zarr", False),
        ("s3://b/P.zarr", "s3://b/P.zarr2", False),
        ("s3://b/P.zarr", "b/P.zarr", False),
    ],
)
def test_inputs_and_outputs_lie_apart(tmp_path, monkeypatch, source, output, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "P.zarr" / "A").mkdir(parents=True)
    (tmp_path / "link").symlink_to("P.zarr")
    source = source.format(here=tmp_path)
    if not refused:
        check_apart(source, output, "--workdir")
        return
    with pytest.raises(UserError) as error:
        check_apart(source, output, "--workdir")
    assert str(error.value) == (
        f"{output}: --workdir and the input ({source}) lie in one another; choose another --workdir"
    )


@pytest.mark.parametrize("program", ["convert", "features", "predict"])
def test_programs_spare_what_they_read(tmp_path, program):
    source = tmp_path / "run"
    source.mkdir()
    (source / "weights").write_text("precious")
    input_flags = ["--input", str(source / "weights" if program == "convert" else tmp_path / "P.zarr")]
    checkpoint = [] if program == "convert" else ["--checkpoint", str(source)]
    main = importlib.import_module(f"vsjax.{program}").main
    protected = source / ("weights" if program == "convert" else "checkpoints")
    for output in (source, protected, protected / "x"):
        with pytest.raises(UserError, match=r"--output and the input .* lie in one another"):
            main([*checkpoint, *input_flags, "--output", str(output), "--overwrite"])
    assert (source / "weights").read_text() == "precious"


@pytest.fixture
def silent_server(monkeypatch):
    """Takes every call and says nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield address


@pytest.mark.parametrize("url", ["{server}/P.zarr", "s3://bucket/P.zarr"])
def test_a_server_that_does_not_answer(silent_server, monkeypatch, url):
    url, start = url.format(server=silent_server), time.monotonic()
    monkeypatch.setenv("VSJAX_TIMEOUT_S", "1")
    with pytest.raises(UserError, match=f"^{url}/.*has not answered for 1 s.*VSJAX_TIMEOUT_S=120$"):
        open_plate(url)
    assert time.monotonic() - start < 10
    for text in ("0", "nan", "soon"):
        monkeypatch.setenv("VSJAX_TIMEOUT_S", text)
        with pytest.raises(UserError, match=f"VSJAX_TIMEOUT_S={text}: is not a number of seconds"):
            open_plate(url)


def look_at(path):
    position = next(open_plate(path).positions())
    return position.shape, position.label_names()


def put_something_else(path, kind):
    """Something that is no file, and whose reading would hang or give nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"broken link": "nothing", "loop": path.name, "device": "/dev/zero"}[kind])


@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link", "loop", "device"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_documents_are_ordinary_files(tmp_path, zarr_plate, version, kind):
    path = zarr_plate(tmp_path / "P.zarr", {"A/1/0": np.ones((1, 1, 1, 4, 4), np.uint8)}, version=version)
    top, array = (".zattrs", ".zarray") if version == "0.4" else ("zarr.json", "zarr.json")
    for name in (top, f"A/1/{top}", f"A/1/0/{top}", f"A/1/0/0/{array}", "labels"):
        document = path / "A/1/0/labels" / top if name == "labels" else path / name
        content = document.read_bytes() if document.exists() else None
        put_something_else(document, kind)
        with pytest.raises(UserError, match=rf"{document}: (is a|cannot be read \(Too many levels)"):
            look_at(path)
        document.rmdir() if kind == "folder" else document.unlink()
        if content is not None:
            (tmp_path / "elsewhere").write_bytes(content)
            document.symlink_to(tmp_path / "elsewhere")  # data may lie elsewhere
            assert look_at(path) == ((1, 1, 1, 4, 4), ())
            document.unlink()
            document.write_bytes(content)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "must be a path"),
        ("gs://bucket/run", "must be a path"),
        ("{here}/file/run", "file is no folder"),
        ("{here}/P.zarr", "is a zarr hierarchy"),
        ("{here}/P.zarr/A/report", "is a zarr hierarchy"),
        ("{here}/loop", "is a broken link"),
        ("{here}/" + "x" * 300, "cannot be written"),
    ],
)
def test_where_only_a_file_system_will_do(tmp_path, output, message):
    (tmp_path / "file").touch()
    (tmp_path / "P.zarr").mkdir()
    (tmp_path / "P.zarr" / ".zgroup").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=message):
        local_output(output.format(here=tmp_path))
    assert local_output(tmp_path / "new" / "report") == tmp_path / "new" / "report"


def test_names_that_tensorstore_does_not_take():
    with pytest.raises(UserError, match="is not UTF-8"):
        kvstore_spec(os.fsdecode(b"plates/\xff.zarr"))
