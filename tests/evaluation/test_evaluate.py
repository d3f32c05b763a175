"""Two plates in, a report out: what is paired with what, in which units, and every mistake that a user can make."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_plates import CHANNELS, NAMES, POSITIONS, write

from vsjax.errors import UserError
from vsjax.evaluation.comparison import evaluate
from vsjax.evaluation.pairing import pair_plates, source_channel
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate

LOCATION, SCALE = 900.0, 250.0


def made_by_predict(**about) -> dict:
    """The attribute of a position that `vsjax.predict` has finished."""
    checkpoint = {"path": "runs/a", "step": 1, "fingerprint": "f"}
    prediction = {"checkpoint": checkpoint, "source_channels": ["Phase"], "units": "target", "normalization": {}}
    record = {"vsjax_version": "0", "step": "predict", "input": "P.zarr", "settings": {}}
    record |= {"about": {"prediction": {**prediction, **about}}, "finished": True, "finished_time_points": 2}
    return {"vsjax": record}


def rows_of(report: Path) -> dict[tuple[str, int, str], dict]:
    content = json.loads((report / "metrics.json").read_text())
    rows = [{key.removeprefix("pixel/"): value for key, value in row.items()} for row in content["rows"]]
    return {(row["position"], row["time"], row["channel"]): row for row in rows}


def test_each_row_is_about_its_own_images(tmp_path, target, measured, predicted):
    """The channels are stored in another order than the target's, so a pairing by index would be seen."""
    swapped = {name: stack[:, ::-1] for name, stack in predicted.items()}
    prediction = write(tmp_path / "S.zarr", swapped, NAMES[::-1], made_by_predict())
    summary = evaluate(prediction, target, tmp_path / "report").summary["pixel"]
    rows = rows_of(tmp_path / "report")
    assert len(rows) == 3 * 2 * 2
    for (name, time, channel), row in rows.items():
        t = measured[name][time, CHANNELS.index(channel)].astype(np.float64)
        p = predicted[name][time, CHANNELS.index(channel) - 1].astype(np.float64)
        assert row["mae"] == pytest.approx(np.abs(p - t).mean(), rel=1e-6)
        assert row["pearson"] == pytest.approx(np.corrcoef(p.ravel(), t.ravel())[0, 1], rel=1e-6)
        assert row["units"] == "target"
    nuclei = next(entry for entry in summary if entry["channel"] == "nuclei")
    assert nuclei["mae_mean"] == pytest.approx(np.mean([row["mae"] for key, row in rows.items() if key[2] == "nuclei"]))
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"pixel.csv", "pixel_summary.csv", "metrics.json", "pixel.png", "pixel_panels_nuclei.png",
                       "pixel_panels_membrane.png"}  # fmt: skip
    with (tmp_path / "report" / "pixel.csv").open(newline="") as file:
        assert [row["position"] for row in csv.DictReader(file)] == [key[0] for key in rows]


def test_units_of_a_normalized_prediction(tmp_path, target, measured, predicted):
    """The same prediction, normalised: errors are in units of the stored scale, or raw again if asked for."""
    stored = {"location": LOCATION, "scale": SCALE}
    attributes = made_by_predict(units="normalized", normalization=dict.fromkeys(("nuclei", "membrane"), stored))
    normalized = {name: (stack - np.float32(LOCATION)) / np.float32(SCALE) for name, stack in predicted.items()}
    prediction = write(tmp_path / "S.zarr", normalized, NAMES, attributes)
    maes = {}
    for units in ("auto", "normalized", "target", "standardized"):
        evaluate(prediction, target, tmp_path / units, units=units)
        maes[units] = {key: row["mae"] for key, row in rows_of(tmp_path / units).items()}
    for key, mae in maes["auto"].items():
        name, time, channel = key
        t = measured[name][time, CHANNELS.index(channel)].astype(np.float64)
        p = predicted[name][time, CHANNELS.index(channel) - 1].astype(np.float64)
        assert mae == maes["normalized"][key] == pytest.approx(np.abs(p - t).mean() / SCALE, rel=1e-5)
        assert maes["target"][key] == pytest.approx(np.abs(p - t).mean(), rel=1e-5)
        z_scored = (p - p.mean()) / p.std() - (t - t.mean()) / t.std()
        assert maes["standardized"][key] == pytest.approx(np.abs(z_scored).mean(), rel=1e-5)
    assert {row["units"] for row in rows_of(tmp_path / "auto").values()} == {"normalized"}


def test_prediction_that_does_not_say_its_units_is_standardized(tmp_path, target, predicted):
    """Other software's plate: a gain and an offset must not change any metric, and the row says why."""
    other = {name: 0.01 * stack - 3 for name, stack in predicted.items()}
    for name, stacks in (("raw", predicted), ("other", other)):
        evaluate(write(tmp_path / f"{name}.zarr", stacks, NAMES), target, tmp_path / name)
    raw, scaled = rows_of(tmp_path / "raw"), rows_of(tmp_path / "other")
    for key, row in raw.items():
        assert row["units"] == "standardized"
        for metric in ("pearson", "ssim", "psnr", "mse", "mae", "r2"):
            assert scaled[key][metric] == pytest.approx(row[metric], rel=1e-4), metric
    with pytest.raises(UserError, match="no location and scale"):
        evaluate(tmp_path / "raw.zarr", target, tmp_path / "n", units="normalized")


def test_copied_source_channel_is_not_scored_and_bare_names_pair(tmp_path, target, measured, predicted):
    copied = {name: np.concatenate([measured[name][:, :1], predicted[name]], axis=1).astype(np.float32)
              for name in measured}  # fmt: skip
    marked = open_plate(write(tmp_path / "a.zarr", copied, ("Phase", *NAMES)))
    assert {job.channel for job in pair_plates(marked, open_plate(target))} == {"nuclei", "membrane"}
    bare = open_plate(write(tmp_path / "b.zarr", predicted, ("nuclei", "other")))
    assert {job.channel for job in pair_plates(bare, open_plate(target))} == {"nuclei"}


def test_selection_of_positions_and_channels(tmp_path, target, predicted):
    prediction = write(tmp_path / "S.zarr", predicted, NAMES)
    evaluate(prediction, target, tmp_path / "r", channels=["membrane"], positions=["B/2/0"], source="nuclei")
    assert set(rows_of(tmp_path / "r")) == {("B/2/0", 0, "membrane"), ("B/2/0", 1, "membrane")}


def test_constant_target_is_a_note_not_a_crash(tmp_path, measured, predicted):
    measured["A/1/1"][1, 1] = 500
    target = write(tmp_path / "P.zarr", measured, CHANNELS)
    summary = evaluate(write(tmp_path / "S.zarr", predicted, NAMES), target, tmp_path / "r").summary["pixel"]
    assert {entry["channel"]: (entry["pearson_n"], entry["noted"]) for entry in summary} == {
        "nuclei": (5, 1),
        "membrane": (6, 0),
    }
    row = rows_of(tmp_path / "r")["A/1/1", 1, "nuclei"]
    assert row["pearson"] is None
    assert "constant" in row["note"]


def test_unfinished_position_is_named_and_an_earlier_report_survives(tmp_path, target, predicted):
    evaluate(write(tmp_path / "S.zarr", predicted, NAMES), target, tmp_path / "r")
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    predicted["B/2/0"][1] = np.nan
    partial = write(tmp_path / "partial.zarr", predicted, NAMES)
    with pytest.raises(UserError, match=r"time point 1 holds no finite pixel.*'B/2/0' is unfinished"):
        evaluate(partial, target, tmp_path / "r", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()} == before


def test_interrupted_prediction_is_told_from_a_finished_one(tmp_path, target, predicted):
    """What `vsjax.predict` leaves when it is killed: zeros that are not marked finished, and positions not begun."""
    prediction = write(tmp_path / "S.zarr", predicted, NAMES, made_by_predict())
    plate = open_plate(prediction)
    assert len(pair_plates(plate, open_plate(target))) == 12
    unfinished = {**made_by_predict()["vsjax"], "finished": False, "finished_time_points": 1}
    plate["A/1/1"].write_attribute("vsjax", unfinished)
    with pytest.raises(UserError, match=r"'A/1/1' is unfinished \(1 of 2 time points\).*vsjax.predict"):
        evaluate(prediction, target, tmp_path / "r")
    begun = create_plate(tmp_path / "begun.zarr", position_names=POSITIONS, attributes={"vsjax": {"checkpoint": "a"}})
    with pytest.raises(UserError, match=r"'A/1/0' is not predicted yet.*vsjax.predict"):
        evaluate(begun.url, target, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_source_that_is_shown_is_the_one_predicted_from(tmp_path, target, predicted):
    first = write(tmp_path / "a.zarr", predicted, ("membrane_prediction", "x_prediction"))
    assert source_channel(pair_plates(open_plate(first), open_plate(target))) == "Phase"
    stated = made_by_predict(source_channels=["nuclei"])
    second = write(tmp_path / "b.zarr", predicted, ("membrane_prediction", "x_prediction"), stated)
    assert source_channel(pair_plates(open_plate(second), open_plate(target))) == "nuclei"


def test_overwrite_is_asked_for_and_leaves_other_files_alone(tmp_path, target, predicted):
    prediction = write(tmp_path / "S.zarr", predicted, NAMES)
    report = tmp_path / "r"
    report.mkdir()
    (report / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        evaluate(prediction, target, report)
    assert [path.name for path in report.iterdir()] == ["notes.txt"]
    evaluate(prediction, target, report, overwrite=True)
    assert (report / "notes.txt").read_text() == "mine"
    assert (report / "metrics.json").exists()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("finished", "yes", "vsjax.finished"),
        ("finished_time_points", -1, "vsjax.finished_time_points"),
        ("about", {"prediction": {"units": "target"}}, "vsjax.about.prediction.checkpoint"),
        ("about", made_by_predict(units="volts")["vsjax"]["about"], "vsjax.about.prediction.units"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, target, predicted, field, value, named):
    attributes = {"vsjax": {**made_by_predict()["vsjax"], field: value}}
    prediction = write(tmp_path / "S.zarr", predicted, NAMES, attributes)
    with pytest.raises(UserError, match=rf"S.zarr/A/1/0/zarr.json: {named}: ") as error:
        pair_plates(open_plate(prediction), open_plate(target))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (
            ("DAPI_prediction", "x_prediction"),
            {},
            r"no channel in common: predicted are DAPI, x .* nuclei, membrane",
        ),
        (NAMES, {"channels": ["actin"]}, r"'actin' is not in both plates: predicted are nuclei, membrane"),
        (NAMES, {"positions": ["C/1/0"]}, r"S.zarr.*no position C/1/0; it has A/1/0, A/1/1, B/2/0"),
        (NAMES, {"source": "brightfield"}, r"'brightfield'.*Phase"),
    ],
)
def test_mistakes_get_one_line_and_no_report(tmp_path, target, predicted, channels, options, message):
    prediction = write(tmp_path / "S.zarr", predicted, channels)
    with pytest.raises(UserError, match=message):
        evaluate(prediction, target, tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_position_that_the_target_lacks(tmp_path, target, predicted):
    predicted["C/1/0"] = predicted["A/1/0"]
    prediction = write(tmp_path / "S.zarr", predicted, NAMES)
    with pytest.raises(UserError, match=r"P.zarr.*no position C/1/0.*--positions"):
        evaluate(prediction, target, tmp_path / "r")


def test_other_shape(tmp_path, target, predicted):
    cropped = {name: stack[..., :29] for name, stack in predicted.items()}
    prediction = write(tmp_path / "S.zarr", cropped, NAMES)
    with pytest.raises(UserError, match=r"X extent is 29, but 30 in"):
        evaluate(prediction, target, tmp_path / "r")


def test_program_prints_the_summary_or_one_line(tmp_path, target, predicted):
    prediction = write(tmp_path / "S.zarr", predicted, NAMES)
    command = [sys.executable, "-m", "vsjax.evaluate", "--prediction", prediction, "--target", target, "--output"]
    good = subprocess.run([*command, tmp_path / "r"], capture_output=True, text=True, check=True)
    assert re.split(r"  +", good.stdout.splitlines()[0])[:4] == ["channel", "stacks", "Pearson", "SSIM"]
    assert "units standardized: each stack minus its own mean" in good.stdout
    again = subprocess.run([*command, tmp_path / "r"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stdout == ""
    assert again.stderr.strip().splitlines() == [
        f"vsjax.evaluate: error: --output {tmp_path / 'r'}: exists and is not empty; "
        "name another directory or add --overwrite"
    ]


@pytest.mark.parametrize("name", ["metrics.json", "pixel.csv", "pixel_panels_nuclei.png", "pixel_summary.csv/"])
def test_overwrite_replaces_no_file_of_others(tmp_path, target, prediction, name):
    report = tmp_path / "report"
    report.mkdir()
    (report / name).mkdir() if name.endswith("/") else (report / name).write_text('{"about": {"mine": 1}}')
    with pytest.raises(UserError, match=rf"{name.strip('/')} is of no report of vsjax; name another directory"):
        evaluate(prediction, target, report, overwrite=True)
    assert [path.name for path in report.iterdir()] == [name.strip("/")]
    if not name.endswith("/"):
        assert (report / name).read_text() == '{"about": {"mine": 1}}'


def test_measurements_that_stay_are_not_taken_for_new_ones(tmp_path, target, prediction):
    """--overwrite deletes no folder behind a link; what is in it would be resumed."""
    output = tmp_path / "r"

    def stops(jobs, **_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(prediction, target, output, progress=stops)
    (journal,) = (output / ".vsjax" / "evaluation").iterdir()
    journal.rename(tmp_path / "elsewhere")
    journal.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"--overwrite: .*\.vsjax cannot be deleted"):
        evaluate(prediction, target, output, overwrite=True)
