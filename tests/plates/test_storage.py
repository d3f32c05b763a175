"""Addresses: which lie in one another, and what a store does when nobody answers."""

import importlib

import pytest

from vsjax.errors import UserError
from vsjax.plates.storage import check_apart


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
    for output in (source, source / "weights"):
        with pytest.raises(UserError, match=r"--output and the input .* lie in one another"):
            main([*checkpoint, *input_flags, "--output", str(output), "--overwrite"])
    assert (source / "weights").read_text() == "precious"
