"""A level of its own beside the pixel level: what it requires, its tables, and where levels meet."""

import csv
import json

import numpy as np
import pytest
from areas import Areas
from scipy import ndimage
from small_plates import CHANNELS, NAMES, write

from vsjax.errors import UserError
from vsjax.evaluation.comparison import evaluate
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_level_has_tables_of_its_own(tmp_path, labelled, prediction, measured, predicted, blobs):
    """Against SciPy's sums over labels; one image has no object, and one object's number is missing."""
    done = evaluate(prediction, labelled, tmp_path / "r", levels=["pixel", Areas()], labels="blobs", units="target")
    rows, objects = table(tmp_path / "r" / "areas.csv"), table(tmp_path / "r" / "areas_objects.csv")
    assert list(objects[0]) == ["position", "time", "channel", "label", "area", "error"]
    for row in rows:
        name, time, channel = row["position"], int(row["time"]), row["channel"]
        labels = blobs[name][time, 0]
        ids = [i for i in np.unique(labels) if i]
        index = CHANNELS.index(channel)
        difference = predicted[name][time, index - 1].astype(np.float64) - measured[name][time, index]
        mine = [o for o in objects if (o["position"], o["time"], o["channel"]) == (name, row["time"], channel)]
        assert [int(o["label"]) for o in mine] == ids
        assert [float(o["area"]) for o in mine] == [np.sum(labels == i) for i in ids]
        want = ndimage.mean(difference, labels, ids) if ids else []
        np.testing.assert_allclose([float(o["error"]) for o in mine], want, rtol=1e-4, atol=1e-3)
        assert int(row["objects"]) == len(ids)
        assert row["note"] == ("" if ids else "no objects")
    assert sum(row["note"] == "no objects" for row in rows) == 2  # of one image, in both channels
    assert done.summary["areas"][0]["error_n"] == 5
    assert (tmp_path / "r" / "areas.txt").read_text() == f"Phase, {len(objects) + 1} lines"


def test_where_levels_meet_names_say_which(tmp_path, labelled, prediction):
    evaluate(prediction, labelled, tmp_path / "r", levels=["pixel", Areas()], labels="blobs")
    content = json.loads((tmp_path / "r" / "metrics.json").read_text())
    rows, pixel, areas = content["rows"], table(tmp_path / "r" / "pixel.csv"), table(tmp_path / "r" / "areas.csv")
    for row, by_pixel, by_area in zip(rows, pixel, areas, strict=True):
        assert row["pixel/mae"] == float(by_pixel["mae"])
        assert row["areas/objects"] == int(by_area["objects"])
        assert row["note"] == ("areas: no objects" if by_area["note"] else "")
    assert content["metrics"]["areas/error"]["better"] == "lower"
    assert content["objects"]["areas"]["table"] == "areas_objects.csv"
    assert content["objects"]["areas"]["columns"]["area"]["definition"] == "in pixels"
    assert content["summary"].keys() == {"pixel", "areas"}


def test_what_no_level_requires_is_not_read(tmp_path, labelled, prediction):
    for chunk in (labelled / "A/1/0/labels/blobs").rglob("c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(b"broken")
    evaluate(prediction, labelled, tmp_path / "pixel")
    with pytest.raises(UserError, match=r"A/1/0.*cannot be read"):
        evaluate(prediction, labelled, tmp_path / "r", levels=[Areas()], labels="blobs")


def test_missing_labels_are_one_line_and_no_report(tmp_path, labelled, prediction, target):
    def refuse(message, target, **options):
        with pytest.raises(UserError, match=message) as caught:
            evaluate(prediction, target, tmp_path / "r", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "r").exists()

    refuse(r"--levels areas: requires labels; name them with --labels", labelled, levels=[Areas()])
    refuse(r"P.zarr/A/1/0/labels: label 'blobs' does not exist", target, levels=[Areas()], labels="blobs")
    refuse(r"label 'cells' does not exist; there are \['blobs'\]", labelled, levels=[Areas()], labels="cells")
    refuse(r"--levels: 'instance' is not known; there are pixel", labelled, levels=["instance"])
    refuse(r"--labels blobs: no chosen level requires labels", labelled, labels="blobs")


def test_labels_that_do_not_fit(tmp_path, labelled, prediction):
    plate = open_plate(labelled)
    writer = create_plate(labelled, resume=True)
    writer.create_label("B/2/0", "other", shape=(2, 1, 2, 24, 31), dtype=np.uint8)
    for name in ("A/1/0", "A/1/1"):
        writer.create_label(name, "other", shape=(2, 1, 2, 24, 30), dtype=np.uint8)
    assert "other" in plate["B/2/0"].label_names()
    with pytest.raises(UserError, match=r"B/2/0/labels/other.*\[2, 1, 2, 24, 31\], but \[2, 1, 2, 24, 30\] fits"):
        evaluate(prediction, labelled, tmp_path / "r", levels=[Areas()], labels="other")
    document = labelled / "A/1/0/labels/blobs/0/zarr.json"
    document.write_text(document.read_text().replace('"uint16"', '"float32"'))
    with pytest.raises(UserError, match=r"A/1/0/labels/blobs: pixels are of type float32, labels are integers"):
        evaluate(prediction, labelled, tmp_path / "r", levels=[Areas()], labels="blobs")
    assert not (tmp_path / "r").exists()


def test_outputs_lie_apart_from_the_plates(tmp_path, target, predicted):
    prediction = write(tmp_path / "S.zarr", predicted, NAMES)
    for output in (target, target / "report", prediction / "A" / "report"):
        with pytest.raises(UserError, match="lie in one another"):
            evaluate(prediction, target, output, overwrite=True)
    assert not list(tmp_path.rglob("*report*"))
