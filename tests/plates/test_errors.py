"""Bad plates: one line that names the file, the field and the remedy."""

import json
import shutil

import numpy as np
import pytest
import zarr

from vsjax.errors import UserError
from vsjax.plates.arrays import read
from vsjax.plates.reader import open_plate


@pytest.fixture(params=["0.4", "0.5"])
def plate(request, tmp_path, zarr_plate):
    """(path, name of the attributes' document) of a plate with two positions."""
    array = np.random.default_rng(0).integers(1, 999, (1, 2, 3, 8, 8)).astype("u2")
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": array, "B/2/0": array}, version=request.param, channels=["a", "b"])
    return path, ".zattrs" if request.param == "0.4" else "zarr.json"


def change(document, edit):
    """Edit the OME part of a document in place."""
    content = json.loads(document.read_text())
    edit(content["attributes"]["ome"] if document.name == "zarr.json" else content)
    document.write_text(json.dumps(content))


def read_all(path):
    """Everything that a program reads of a plate."""
    for position in open_plate(path).positions():
        _ = position.channel_names, position.pixel_size_um
        read(position.array().read(), position.url)


def message(action, *args):
    with pytest.raises(UserError) as caught:
        action(*args)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_not_a_zarr(tmp_path, plate):
    (tmp_path / "text.zarr").write_text("x")
    (tmp_path / "folder").mkdir()
    assert "nothing.zarr: does not exist" in message(open_plate, tmp_path / "nothing.zarr")
    assert "text.zarr: is not a zarr" in message(open_plate, tmp_path / "text.zarr")
    assert "folder: is not a zarr" in message(open_plate, tmp_path / "folder")
    path, _ = plate
    assert "A/1/0/0" in (array := message(open_plate, path / "A/1/0/0"))
    assert "array" in array
    assert "well" in message(open_plate, path / "A/1")


@pytest.mark.parametrize("content", ["{", "", "[1]", '{"a": 1', "\x00\xff", "[" * 100000])
def test_malformed_json(plate, content):
    path, document = plate
    for node in ("", "A/1/", "A/1/0/"):
        file = path / f"{node}{document}"
        old = file.read_bytes()
        file.write_text(content)
        assert f"p.zarr/{node}{document}" in message(read_all, path)
        file.write_bytes(old)
    read_all(path)


def test_missing_well_and_image(plate):
    path, document = plate
    (path / "B/2/0").rename(path / "aside")
    text = message(read_all, path)
    assert f"B/2/{document}" in text
    assert "B/2/0 does not exist" in text
    shutil.rmtree(path / "B/2")
    text = message(read_all, path)
    assert f"p.zarr/{document}: plate.wells: lists the well B/2" in text
    assert message(lambda: open_plate(path).position_names) == text


def test_position_that_does_not_exist(plate):
    path, _ = plate
    for name in ("A/1/1", "C/1/0", "A/1", "", "0"):
        assert "there are: A/1/0, B/2/0" in message(lambda name=name: open_plate(path)[name])


@pytest.mark.parametrize("bad", ["../../x", "/etc", "A/../../x", "A/1/", "A\\1", "./A"])
def test_paths_that_lead_outside(tmp_path, plate, bad, zarr_plate):
    """There is a readable image where the path leads: it must not be read."""
    path, document = plate
    zarr_plate(tmp_path / "x", {"A/1/0": np.ones((1, 1, 1, 4, 4))})
    for node, edit in {
        "": lambda ome: ome["plate"]["wells"][1].update(path=bad),
        "A/1/": lambda ome: ome["well"]["images"][0].update(path=bad),
        "A/1/0/": lambda ome: ome["multiscales"][0]["datasets"][0].update(path=bad),
    }.items():
        file = path / f"{node}{document}"
        old = file.read_bytes()
        change(file, edit)
        text = message(read_all, path)
        assert f"p.zarr/{node}{document}" in text
        assert "path" in text
        assert repr(bad) in text
        file.write_bytes(old)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(axes=m["axes"][:-1]), ["axes"]),
        (lambda m: m["axes"].reverse(), ["axes"]),
        (lambda m: m["axes"][1].update(type="angle"), ["axes", "angle"]),
        (lambda m: m["axes"][4].update(unit="second"), ["axes", "second"]),
        (lambda m: m.update(axes="tczyx"), ["axes"]),
        (lambda m: m.update(datasets=[]), ["datasets"]),
        (lambda m: m["datasets"][0].pop("path"), ["datasets.0.path"]),
        (lambda m: m["datasets"][0].update(path="7"), ["A/1/0/7"]),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1, 1, 0, 1]), ["scale"]),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1, 1]), ["scale"]),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=["a"] * 5), ["scale"]),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[True] * 5), ["scale", "True"]),
        (lambda m: m["datasets"][0].update(coordinateTransformations=[]), ["datasets.0", "coordinateTransformations"]),
        (lambda m: m.update(datasets=m["datasets"] * 65), ["datasets", "65 resolutions"]),
    ],
)
def test_bad_multiscales(plate, edit, words):
    path, document = plate
    change(path / "A/1/0" / document, lambda ome: edit(ome["multiscales"][0]))
    text = message(read_all, path)
    assert f"p.zarr/A/1/0/{document}" in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize("version", ["0.1", "0.6", "0.6.dev4"])
def test_other_versions(plate, version):
    path, document = plate
    old = (path / document).read_bytes()
    change(path / document, lambda ome: (ome if document == "zarr.json" else ome["plate"]).update(version=version))
    assert f"OME-NGFF {version} is not supported" in message(open_plate, path)
    (path / document).write_bytes(old)


def test_slips_whose_meaning_is_clear(plate):
    """What iohub, Fractal and others write: read as if it were right."""
    path, document = plate

    def edit(ome):
        multiscale = ome["multiscales"][0]
        multiscale["coordinateTransformations"] = [{"type": "identity"}]
        multiscale["datasets"][0] = {"path": 0, "coordinateTransformations": [{"type": "identity"}]}
        multiscale["axes"] = [{"name": axis} for axis in "TCZYX"]
        ome["omero"]["channels"][0]["window"] = {"min": "0"}

    expected = open_plate(path)["A/1/0"].array().read().result()
    change(path / "A/1/0" / document, edit)
    change(path / document, lambda ome: ome["plate"].pop("version"))
    position = open_plate(path)["A/1/0"]
    assert (position.axes, position.pixel_size_um, position.channel_names) == ("tczyx", (1, 1, 1), ("a", "b"))
    np.testing.assert_array_equal(position.array().read().result(), expected)


def test_truncated_chunk_is_named(plate):
    path, _ = plate
    chunk = next(
        p for p in (path / "B/2/0/0").rglob("*") if p.is_file() and not p.name.startswith(".z") and p.suffix != ".json"
    )
    chunk.write_bytes(chunk.read_bytes()[:7])
    text = message(read_all, path)
    assert str(chunk) in text
    assert text.startswith(f"{path}/B/2/0: cannot be read")


def test_truncated_shard_is_named(tmp_path):
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((64, 64), "f4"), chunks=(8, 8), shards=(64, 64))
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    read_all(tmp_path / "i.zarr")
    shard = tmp_path / "i.zarr/0/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert str(shard) in message(read_all, tmp_path / "i.zarr")


def test_pixels_of_other_types(tmp_path, zarr_plate):
    for dtype in ("complex64", "bool"):
        path = zarr_plate(tmp_path / f"{dtype}.zarr", {"A/1/0": np.zeros((1, 1, 1, 4, 4), dtype)})
        assert f"A/1/0/0: pixels of type {dtype}" in message(read_all, path)


def test_bioformats2raw_layout(tmp_path):
    zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    assert "b.zarr/0" in message(open_plate, tmp_path / "b.zarr")
