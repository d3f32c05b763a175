"""What users get wrong: one line that names the file, the field and the remedy, status 1, and nothing damaged."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from vsjax.models.registry import build_model
from vsjax.plates.writer import create_plate
from vsjax.runtime.checkpoint import save_variables
from vsjax.runtime.description import Description

SHAPE = (1, 2, 5, 64, 64)


def run(capfd, monkeypatch, program, *arguments):
    """Run a program as `python -m` would; its exit status and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
    code = 0
    try:
        runpy.run_module(f"vsjax.{program}", run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    return code, capfd.readouterr().err


def assert_one_line(result, *words):
    code, stderr = result
    assert code == 1
    # Progress bars rewrite their line with carriage returns; the error is the last line.
    errors = [line for line in stderr.replace("\r", "\n").splitlines() if "error:" in line]
    assert len(errors) == 1, stderr
    assert "Traceback" not in stderr
    for word in words:
        assert str(word) in errors[0], errors[0]


def fingerprint(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def write_plate(path, pixels=None, names=("A/1/0", "A/1/1"), version="0.5"):
    writer = create_plate(path, position_names=names, ngff_version=version)
    for number, name in enumerate(names):
        position = writer.create_position(
            name, shape=SHAPE, dtype=np.float32, channel_names=["BF", "nuclei"], pixel_size_um=(1, 0.5, 0.5)
        )
        image = np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)
        position.array().write(image if pixels is None else pixels(image)).result()
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained weights of a small model, enough to get as far as reading the plate."""
    import jax

    settings = {
        "in_channels": 1,
        "out_channels": 1,
        "in_stack_depth": 5,
        "out_stack_depth": 5,
        "backbone": "convnextv2_atto",
        "decoder_conv_blocks": 1,
        "head_expansion_ratio": 1,
    }
    model = build_model("unext2", **settings)
    variables = model.init(jax.random.key(0), np.zeros((1, 5, 64, 64, 1), np.float32), train=False)
    path = tmp_path_factory.mktemp("checkpoint") / "weights"
    normalization = {"scope": "fov", "statistic": "mean_std"}
    statistics = {"mean": 0.0, "std": 1.0, "median": 0.0, "iqr": 1.0, "p1": -2.0, "p99": 2.0}
    description = Description(
        config={"model": {"name": "unext2", **settings}, "task": {"name": "regression"}, "dtype": "float32"},
        channels={
            "source": {"channels": ("BF",), "normalization": normalization},
            "target": {"channels": ("nuclei",), "normalization": normalization},
        },
        pixel_size_um=(1.0, 0.5, 0.5),
        statistics={"BF": statistics, "nuclei": statistics},
    )
    save_variables(path, variables, description)
    return path


def test_not_a_zarr(tmp_path, capfd, monkeypatch):
    (tmp_path / "image.zarr").mkdir()
    (tmp_path / "image.zarr" / "notes.txt").write_text("not a plate")
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", tmp_path / "image.zarr"), "image.zarr")
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", tmp_path / "none.zarr"), "none.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_plate_that_names_missing_wells(tmp_path, capfd, monkeypatch, version):
    plate = write_plate(tmp_path / "P.zarr", names=("A/1/0", "B/2/0"), version=version)
    shutil.rmtree(plate / "B")
    before = fingerprint(plate)
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", plate), "P.zarr", "B/2")
    assert fingerprint(plate) == before


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_truncated_chunk(tmp_path, capfd, monkeypatch, version):
    plate = write_plate(tmp_path / "P.zarr", version=version)
    chunk = max((p for p in (plate / "A/1/1/0").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:100])
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", plate), "A/1/1")


def test_channel_that_does_not_exist(tmp_path, capfd, monkeypatch):
    plate = write_plate(tmp_path / "P.zarr")
    result = run(capfd, monkeypatch, "preprocess", "--plate", plate, "--channels", "Phase")
    assert_one_line(result, "Phase", "'BF', 'nuclei'")


def test_all_nan_channel(tmp_path, capfd, monkeypatch):
    plate = write_plate(
        tmp_path / "P.zarr", pixels=lambda image: image * np.array([1, np.nan], np.float32)[:, None, None, None]
    )
    before = fingerprint(plate)
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", plate), "P.zarr", "nuclei", "NaN")
    assert fingerprint(plate) == before


def test_constant_channel(tmp_path, capfd, monkeypatch, checkpoint):
    plate = write_plate(
        tmp_path / "P.zarr", pixels=lambda image: image * np.array([0, 1], np.float32)[:, None, None, None]
    )
    assert run(capfd, monkeypatch, "preprocess", "--plate", plate)[0] == 0
    result = run(capfd, monkeypatch, "predict", *predict_arguments(checkpoint, plate, tmp_path / "S.zarr"))
    assert_one_line(result, "BF", "constant")
    assert not (tmp_path / "S.zarr").exists()


def predict_arguments(checkpoint, plate, output):
    return ["--checkpoint", checkpoint, "--input", plate, "--output", output]


def test_no_statistics_yet(tmp_path, capfd, monkeypatch, checkpoint):
    plate = write_plate(tmp_path / "P.zarr")
    result = run(capfd, monkeypatch, "predict", *predict_arguments(checkpoint, plate, tmp_path / "S.zarr"))
    assert_one_line(result, "P.zarr", "BF", "python -m vsjax.preprocess --plate")
    assert not (tmp_path / "S.zarr").exists()


def test_output_that_exists(tmp_path, capfd, monkeypatch, checkpoint):
    plate = write_plate(tmp_path / "P.zarr")
    assert run(capfd, monkeypatch, "preprocess", "--plate", plate)[0] == 0
    output = write_plate(tmp_path / "S.zarr")
    before = fingerprint(output)
    assert_one_line(run(capfd, monkeypatch, "predict", *predict_arguments(checkpoint, plate, output)), "S.zarr")
    assert_one_line(run(capfd, monkeypatch, "simulate", "--output", output, "--positions", 1), "S.zarr")
    assert fingerprint(output) == before
    report = tmp_path / "report"
    report.mkdir()
    (report / "mine.txt").write_text("kept")
    arguments = ["--prediction", output, "--target", plate, "--output", report]
    assert_one_line(run(capfd, monkeypatch, "evaluate", *arguments), "report", "--overwrite")
    assert (report / "mine.txt").read_text() == "kept"


def test_predicting_onto_the_input(tmp_path, capfd, monkeypatch, checkpoint):
    plate = write_plate(tmp_path / "P.zarr")
    assert run(capfd, monkeypatch, "preprocess", "--plate", plate)[0] == 0
    before = fingerprint(plate)
    result = run(capfd, monkeypatch, "predict", *predict_arguments(checkpoint, plate, plate), "--overwrite")
    assert_one_line(result, "P.zarr")
    assert fingerprint(plate) == before


def test_checkpoint_of_another_model(tmp_path, capfd, monkeypatch, checkpoint):
    plate = write_plate(tmp_path / "P.zarr")
    changed = shutil.copytree(checkpoint, tmp_path / "weights")
    document = next(changed.rglob("description/metadata"))
    description = json.loads(document.read_text())
    description["config"]["model"]["backbone"] = "convnextv2_pico"
    document.write_text(json.dumps(description))
    result = run(capfd, monkeypatch, "predict", *predict_arguments(changed, plate, tmp_path / "S.zarr"))
    assert_one_line(result, "weights")


def test_damaged_checkpoint(tmp_path, capfd, monkeypatch, checkpoint):
    broken = shutil.copytree(checkpoint, tmp_path / "weights")
    shutil.rmtree(next(broken.rglob("variables")))
    result = run(capfd, monkeypatch, "predict", *predict_arguments(broken, tmp_path / "P.zarr", tmp_path / "S.zarr"))
    assert_one_line(result, "weights", "damaged")


@pytest.mark.parametrize("path", ["../../x", "/etc", "A/../../x"])
def test_well_path_that_leads_out(tmp_path, capfd, monkeypatch, path):
    plate = write_plate(tmp_path / "in" / "deep" / "P.zarr")
    document = plate / "zarr.json"
    metadata = json.loads(document.read_text())
    metadata["attributes"]["ome"]["plate"]["wells"][0]["path"] = path
    document.write_text(json.dumps(metadata))
    before = fingerprint(tmp_path)
    assert_one_line(run(capfd, monkeypatch, "preprocess", "--plate", plate), path)
    assert fingerprint(tmp_path) == before
