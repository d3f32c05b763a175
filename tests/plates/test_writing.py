"""What vsjax writes: read back by zarr-python and validated by ome-zarr-models; never outside, never over something."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import ome_zarr_models
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsjax.errors import UserError
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate

IMAGE = {"shape": (1, 1, 1, 4, 4), "dtype": "uint8", "channel_names": ["a"], "pixel_size_um": (1, 1, 1)}


def everything(folder):
    """All files below a folder with their contents."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=st.sampled_from(["yx", "zyx", "cyx", "czyx", "tyx", "tzyx", "tcyx", "tczyx"]),
    dtype=st.sampled_from(
        ["uint8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
    ),
    layout=st.sampled_from(["0.4", "0.5", "0.5 sharded"]),
    hcs=st.booleans(),
    sizes=st.fixed_dictionaries({a: st.integers(1, 6) for a in "tczyx"}),
)
def test_round_trip(tmp_path, axes, dtype, layout, hcs, sizes):
    version = layout[:3]
    shape = tuple(sizes[a] if a in axes else 1 for a in "tczyx")
    array = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    names = tuple(f"channel {i}" for i in range(shape[1]))
    chunks = tuple(min(n, 2) for n in shape)
    url = tmp_path / "p.zarr"
    shutil.rmtree(url, ignore_errors=True)
    writer = create_plate(url, ngff_version=version, is_hcs=hcs)
    name = "B/03/f-1.2_3" if hcs else "0"
    position = writer.create_position(
        name,
        shape=shape,
        dtype=dtype,
        channel_names=names,
        pixel_size_um=(2.0, 0.5, 0.25),
        axes=axes,
        chunks=chunks,
        shards=tuple(2 * c for c in chunks) if "sharded" in layout else None,
        attributes={"made by": {"µ": [1, None]}},
    )
    position.array().write(array).result()

    stored = zarr.open_array(url / name / "0" if hcs else url / "0", mode="r")
    assert stored.dtype == np.dtype(dtype)
    assert stored.shape == tuple(n for n, a in zip(shape, "tczyx", strict=True) if a in axes)
    np.testing.assert_array_equal(stored[...].reshape(shape), array)
    assert stored.metadata.zarr_format == (2 if version == "0.4" else 3)
    again = open_plate(url)[name]
    assert (again.axes, again.channel_names, again.dtype) == (axes, names, np.dtype(dtype))
    assert again.pixel_size_um == (2.0 if "z" in axes else 1.0, 0.5, 0.25)
    assert again.attributes["made by"] == {"µ": [1, None]}
    np.testing.assert_array_equal(again.array().read().result(), array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("hcs", [True, False])
def test_ome_zarr_models_accepts_what_is_written(tmp_path, version, hcs):
    writer = create_plate(tmp_path / "p.zarr", ngff_version=version, is_hcs=hcs)
    for name in ("B/2/0", "A/10/0", "B/2/1") if hcs else ("0",):
        writer.create_position(name, **{**IMAGE, "shape": (2, 1, 3, 8, 8)})
        writer.create_label(name, "nuclei", (2, 1, 3, 8, 8))[:] = 7
        writer.create_label(name, "cells", (2, 1, 3, 8, 8), dtype=np.uint16)
    model = ome_zarr_models.open_ome_zarr(zarr.open_group(tmp_path / "p.zarr", mode="r"))
    assert (type(model).__name__, model.ome_zarr_version) == ("HCS" if hcs else "Image", version)
    label = ome_zarr_models.open_ome_zarr(
        zarr.open_group(tmp_path / "p.zarr" / ("B/2/0" if hcs else "") / "labels/nuclei")
    )
    assert type(label).__name__ == "ImageLabel"
    plate = open_plate(tmp_path / "p.zarr")
    if hcs:
        assert plate.position_names == ("B/2/0", "B/2/1", "A/10/0")
        document = model.ome_attributes.plate
        assert [w.path for w in document.wells] == ["B/2", "A/10"]
        assert [(w.rowIndex, w.columnIndex) for w in document.wells] == [(0, 0), (1, 1)]
    position = next(plate.positions())
    assert position.label_names() == ("nuclei", "cells")
    assert position.label("nuclei").shape == (2, 1, 3, 8, 8)
    assert (position.label("nuclei").read().result() == 7).all()
    assert position.label("cells").dtype.name == "uint16"
    with pytest.raises(UserError, match=r"labels: label 'x' does not exist; there are \['nuclei', 'cells'\]"):
        position.label("x")


def test_attributes_of_others_stay(tmp_path, zarr_plate):
    for version in ("0.4", "0.5"):
        path = zarr_plate(
            tmp_path / f"{version}.zarr", {"A/1/0": np.zeros((1, 1, 1, 2, 2))}, version=version, mine={"a": [1.5]}
        )
        before = {k: dict(zarr.open_group(path / k, mode="r").attrs) for k in ("", "A/1/0")}
        plate = open_plate(path)
        plate["A/1/0"].write_attribute("new", {"x": 1})
        plate.write_attribute("new", 2)
        assert plate.attributes["new"] == 2
        assert dict(zarr.open_group(path / "A/1/0", mode="r").attrs) == {**before["A/1/0"], "new": {"x": 1}}
        assert dict(zarr.open_group(path, mode="r").attrs) == {**before[""], "new": 2}


def test_existing_output_is_refused_and_left_alone(tmp_path):
    create_plate(tmp_path / "p.zarr").create_position("A/1/0", **IMAGE)
    (tmp_path / "file.zarr").write_text("mine")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr/thesis.txt").write_text("mine")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "p.zarr")
    before = everything(tmp_path)
    for name in ("p.zarr", "file.zarr", "folder.zarr", "link.zarr"):
        with pytest.raises(UserError, match=f"{name}: exists already"):
            create_plate(tmp_path / name)
    for name in ("file.zarr", "folder.zarr", "link.zarr", "p.zarr/A"):
        with pytest.raises(UserError, match=f"{name}: is not deleted"):
            create_plate(tmp_path / name, overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        create_plate(tmp_path / "p.zarr", ngff_version="0.6", overwrite=True)
    with pytest.raises(UserError, match="row/column/FOV"):
        create_plate(tmp_path / "p.zarr", position_names=["A"], overwrite=True)
    assert everything(tmp_path) == before
    (tmp_path / "empty.zarr").mkdir()
    create_plate(tmp_path / "empty.zarr")


@pytest.mark.parametrize(
    "name", ["../../x/0", "A/../0", "/A/1/0", "A/1", "A/1/0/1", "A//0", "A/1/.zattrs", "A/1/zarr.json", "A/1/a b", ""]
)
def test_nothing_is_written_outside(tmp_path, name):
    writer = create_plate(tmp_path / "in/p.zarr")
    before = everything(tmp_path)
    for action in (
        lambda: writer.create_position(name, **IMAGE),
        lambda: writer.register([name]),
        lambda: create_plate(tmp_path / "in/q.zarr", position_names=[name]),
        lambda: writer.create_label(name, "nuclei", (1, 1, 1, 4, 4)),
    ):
        with pytest.raises(UserError, match=r"p\.zarr|q\.zarr"):
            action()
    assert everything(tmp_path) == before


@pytest.mark.parametrize("label", ["../x", "a/b", ".zgroup", "zarr.json", ""])
def test_label_names_are_checked(tmp_path, label):
    writer = create_plate(tmp_path / "p.zarr")
    writer.create_position("A/1/0", **IMAGE)
    before = everything(tmp_path)
    with pytest.raises(UserError, match="labels"):
        writer.create_label("A/1/0", label, (1, 1, 1, 4, 4))
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": (1, 1, 4, 4)}, "shape"),
        ({"shape": (1, 1, 0, 4, 4)}, "shape"),
        ({"axes": "zcyx"}, "axes"),
        ({"axes": "yx", "shape": (1, 1, 2, 4, 4)}, "axes"),
        ({"channel_names": ["a", "b"]}, "channel_names"),
        ({"channel_names": ["a", "a"], "shape": (1, 2, 1, 4, 4)}, "channel_names"),
        ({"chunks": (1, 1, 1, 4)}, "chunks"),
        ({"chunks": (1, 1, 1, 3, 3), "shards": (1, 1, 1, 4, 4)}, "shards"),
    ],
)
def test_images_that_do_not_fit_together(tmp_path, change, field):
    writer = create_plate(tmp_path / "p.zarr")
    with pytest.raises(UserError, match=f"A/1/0.*{field}"):
        writer.create_position("A/1/0", **{**IMAGE, **change})


def test_resume_keeps_what_is_there(tmp_path):
    names = ["A/1/0", "A/2/0"]
    first = create_plate(tmp_path / "p.zarr", position_names=names, attributes={"by": "one"})
    first.create_position("A/1/0", **IMAGE).array()[...] = 5
    before = everything(tmp_path)
    second = create_plate(tmp_path / "p.zarr", position_names=names, attributes={"by": "one"}, resume=True)
    assert everything(tmp_path) == before
    assert (second.create_position("A/1/0", **IMAGE).array().read().result() == 5).all()
    assert everything(tmp_path) == before
    second.create_position("A/2/0", **IMAGE)
    third = create_plate(tmp_path / "p.zarr", position_names=["A/1/0", "A/1/1", "C/9/0"], resume=True)
    assert third.plate.position_names == ("A/1/0", "A/1/1", "A/2/0", "C/9/0")
    for change in ({"shape": (1, 1, 1, 4, 5)}, {"dtype": "uint16"}, {"channel_names": ["b"]}):
        with pytest.raises(UserError, match=r"p\.zarr/A/1/0: exists with"):
            third.create_position("A/1/0", **{**IMAGE, **change})
    for other in ({"ngff_version": "0.4"}, {"is_hcs": False}):
        with pytest.raises(UserError, match=r"p\.zarr/zarr\.json: is "):
            create_plate(tmp_path / "p.zarr", resume=True, **other)
    create_plate(tmp_path / "new.zarr", resume=True).create_position("A/1/0", **IMAGE)


def _create_some(url, names, barrier):
    writer = create_plate(url, position_names=ALL, resume=True)
    barrier.wait()
    for name in names:
        writer.create_position(name, **IMAGE).array()[...] = 1


ALL = [f"{row}/{column}/{field}" for row in "AB" for column in (1, 2) for field in range(6)]


def test_several_processes_fill_one_plate(tmp_path):
    create_plate(tmp_path / "p.zarr", position_names=ALL)
    documents = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("zarr.json")}
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_create_some, args=(tmp_path / "p.zarr", ALL[i::3], barrier)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert {p: p.stat().st_mtime_ns for p in documents} == documents  # no document of plate or well was written again
    plate = open_plate(tmp_path / "p.zarr")
    assert list(plate.position_names) == ALL
    assert all((position.array().read().result() == 1).all() for position in plate.positions())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_positions_registered_at_the_same_time_are_not_lost(tmp_path, version):
    create_plate(tmp_path / "p.zarr", ngff_version=version)

    def register(names):
        writer = create_plate(tmp_path / "p.zarr", ngff_version=version, resume=True)
        for name in names:
            writer.register([name])

    threads = [threading.Thread(target=register, args=(ALL[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(open_plate(tmp_path / "p.zarr").position_names) == sorted(ALL)


KILLED = """
import sys
from vsjax.plates.writer import create_plate
names = [f"A/{c}/{f}" for c in range(6) for f in range(4)]
writer = create_plate(sys.argv[1], ngff_version=sys.argv[2], position_names=names, resume=True)
print("begun", flush=True)
for name in names:
    p = writer.create_position(name, shape=(1, 1, 1, 4, 4), dtype="uint8", channel_names=["a"], pixel_size_um=(1, 1, 1))
    p.array()[...] = 1
"""


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_killed_writer_can_be_gone_on_with(tmp_path, version):
    """SIGKILL at several moments; then the same program to its end gives the same files as one that was not killed."""
    command = [sys.executable, "-c", KILLED]
    subprocess.run([*command, str(tmp_path / "whole.zarr"), version], check=True, capture_output=True)
    for delay in (0.0, 0.02, 0.05):
        process = subprocess.Popen([*command, str(tmp_path / "p.zarr"), version], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    subprocess.run([*command, str(tmp_path / "p.zarr"), version], check=True, capture_output=True)
    leftovers = (".__lock",)  # TensorStore's, of the write that was cut off
    found = {k: v for k, v in everything(tmp_path / "p.zarr").items() if not k.endswith(leftovers)}
    assert found == everything(tmp_path / "whole.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("left", ["lock", "group"])
def test_a_writer_stopped_before_its_first_document(tmp_path, left, version):
    create_plate(tmp_path / "p.zarr", ngff_version=version)
    (tmp_path / "p.zarr/.zattrs").unlink(missing_ok=True)
    if left == "lock":
        for path in (tmp_path / "p.zarr").iterdir():
            path.rename(f"{path}.__lock")
    elif version == "0.5":
        (tmp_path / "p.zarr/zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
        )
    create_plate(tmp_path / "p.zarr", ngff_version=version, resume=True)
    assert open_plate(tmp_path / "p.zarr").is_hcs
    assert open_plate(tmp_path / "p.zarr").position_names == ()
