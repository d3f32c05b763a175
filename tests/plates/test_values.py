"""Values in a plate's documents that mean nothing: refused in words, or right, and never written again."""

import json
import re
import time

import numpy as np
import pytest
import zarr
from test_errors import change, message
from toy_step import Power

from vsjax.errors import UserError
from vsjax.intensity.statistics import write_statistics
from vsjax.plates import ngff
from vsjax.plates.derived import make_plate
from vsjax.plates.reader import open_plate


@pytest.fixture(params=["0.4", "0.5"])
def plate(request, tmp_path, zarr_plate):
    image = np.random.default_rng(0).integers(1, 9, (1, 1, 2, 8, 8)).astype(np.uint8)
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": image}, version=request.param, channels=["a"])
    return path, ".zattrs" if request.param == "0.4" else "zarr.json"


@pytest.mark.parametrize(
    ("scale", "whole"), [(float("nan"), 1), (0, 1), (-1, 1), (1e400, 1), (1, 0), (1e300, 1e300), (1e-200, 1e-200)]
)
def test_pixel_sizes_that_are_none(plate, scale, whole):
    path, document = plate

    def edit(ome):
        multiscale = ome["multiscales"][0]
        multiscale["datasets"][0]["coordinateTransformations"][0]["scale"][3] = scale
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 1, whole, 1]}]

    change(path / "A/1/0" / document, edit)
    found = message(lambda: open_plate(path)["A/1/0"].pixel_size_um)
    assert f"A/1/0/{document}: multiscales.0: the scale" in found


def no_constant(text):
    raise AssertionError(f"{text} is no JSON")


def test_what_is_not_finite_is_not_copied(plate, tmp_path):
    """A viewer's window of NaN and infinite attributes: the plate made from it has none, and zarr-python reads it."""
    path, document = plate
    window = {"min": float("nan"), "max": 1e400, "start": 0, "end": 1}
    more = {"omero": {"channels": [{"label": "a", "window": window, "color": "00FF00"}]}}
    change(path / "A/1/0" / document, lambda ome: ome.update(more))
    content = json.loads((path / "A/1/0" / document).read_text())
    attributes = content["attributes"] if document == "zarr.json" else content
    attributes |= {"drift": [float("nan"), 1.5, -1e400], "half": "\ud800"}
    (path / "A/1/0" / document).write_text(json.dumps(content))
    make_plate(Power(), path, tmp_path / "q.zarr")
    for file in (tmp_path / "q.zarr").rglob(document):
        json.loads(file.read_text(), parse_constant=no_constant)
    made = zarr.open_group(tmp_path / "q.zarr/A/1/0", mode="r").attrs.asdict()
    assert (made["drift"], made["half"]) == ([None, 1.5, None], "\ud800")
    channel = made.get("ome", made)["omero"]["channels"][0]
    assert channel["color"] == "00FF00"
    assert channel["window"] == {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}


def test_a_plate_without_wells_or_images(plate):
    path, document = plate
    change(path / "A/1" / document, lambda ome: ome["well"].update(images=[]))
    for empty in ("images", "wells"):
        assert list(open_plate(path).positions()) == []
        for use in (write_statistics, lambda source: make_plate(Power(), source.url, path.parent / "q.zarr")):
            with pytest.raises(UserError, match=r"p\.zarr: has no positions"):
                use(open_plate(path))
        if empty == "images":
            change(path / document, lambda ome: ome["plate"].update(wells=[]))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_many_rows_and_columns_take_no_time(version):
    count = 8000
    named = {"rows": [{"name": f"r{i}"} for i in range(count)], "columns": [{"name": f"c{i}"} for i in range(count)]}
    wells = [{"path": f"r{i}/c{i}", "rowIndex": i, "columnIndex": i} for i in range(count)]
    start = time.process_time()
    assert len(ngff.parse_plate({"plate": {**named, "wells": wells, "version": version}}, version, "p")) == count
    assert time.process_time() - start < 5
    named["columns"][-1] = named["columns"][0]
    with pytest.raises(UserError, match=re.escape("p: plate.columns: 'c0' is listed twice")):
        ngff.parse_plate({"plate": {**named, "wells": wells[:9], "version": version}}, version, "p")
