"""Plates read as zarr-python reads them: real ones by other writers, and every axis order that the standard allows."""

import functools
import http.server
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsjax.errors import UserError
from vsjax.plates.arrays import read
from vsjax.plates.reader import describe_positions, open_plate, require_same_channels
from vsjax.plates.storage import kvstore_spec
from vsjax.plates.writer import create_plate

FOREIGN = "data/foreign_plates/"
VALID = {  # path below ../shared/data: (positions, axes, channels)
    "isl_neurons_v04.zarr": (8, "tczyx", ("Phase", "DAPI", "MAP2", "NFH")),
    "hela_nuclei_v05.zarr": (4, "tczyx", ("Phase", "Nuclei")),
    **{
        f"foreign_plates/written_from_isl/{name}.zarr": (2, axes, ("Phase", "DAPI", "MAP2", "NFH"))
        for name, axes in {
            "iohub-0.2.3.post1_v04": "tczyx",
            "iohub-0.3.0a7_v05": "tczyx",
            "ngio-1.1.3_v04": "czyx",
            "ngio-1.1.3_v05": "czyx",
            "ome-zarr-py-0.11.1_v04": "czyx",
        }.items()
    },
    "foreign_plates/written_from_isl/ome-zarr-py-0.18.0_v05.zarr": (2, "czyx", tuple(f"channel_{i}" for i in range(4))),
    "foreign_plates/ez_zarr/tests/example_data_zarr3/6001240_labels_v0.5.zarr": (1, "czyx", ("LaminB1", "Dapi")),
    "foreign_plates/ome-zarr-models-py/tests/data/examples/v04/hcs_example.ome.zarr": (1, "czyx", ("DAPI",)),
    "foreign_plates/ome-zarr-examples/data/valid/plate-01.zarr": (4, "yx", ("channel_0",)),
    **{
        f"foreign_plates/ome-zarr-examples/data/{path}.zarr": (1, axes, ("channel_0",))
        for path, axes in {
            "valid/image-01": "yx",
            "valid/image-02": "yx",
            "valid/image-03": "zyx",
            "valid/image-04": "zyx",
            "warning/image-01": "yx",
        }.items()
    },
}
INVALID = {  # path below ../shared/data: what the one line must contain
    "foreign_plates/ome-zarr-examples/data/invalid/image-01.zarr": (".zattrs", "multiscales"),
    "foreign_plates/ome-zarr-examples/data/invalid/image-02.zarr": (".zattrs", "multiscales"),
    "foreign_plates/ome-zarr-examples/data/invalid/image-03.zarr": ("image-03.zarr/0", "does not exist"),
    "foreign_plates/ome-zarr-examples/data/invalid/image-04.zarr": ("image-04.zarr/1", "axes"),
    "foreign_plates/ome-zarr-models-py/tests/data/examples/v06/stitched_tiles_2d.zarr": ("zarr.json", "0.6"),
    "foreign_plates/ome-zarr-models-py/tests/data/examples/v06/stitched_tiles_2d.zarr/tile_0": ("zarr.json", "0.6"),
    "foreign_plates/ez_zarr/tests/example_data/plate_ones.zarr": ("B/03/.zattrs", "well"),
    "foreign_plates/ez_zarr/tests/example_data/plate_ones_mip.zarr": ("B/03/.zattrs", "well"),
}


def with_all_axes(array: np.ndarray, axes: str) -> np.ndarray:
    """The independent idea of canonical: T, C, Z, Y, X, length 1 where an axis is missing."""
    ordered = array.transpose([axes.index(a) for a in "tczyx" if a in axes])
    return np.expand_dims(ordered, [i for i, a in enumerate("tczyx") if a not in axes])


@pytest.mark.parametrize("path", VALID)
def test_real_plates_read_like_zarr_python(shared, path):
    positions, axes, channels = VALID[path]
    plate = open_plate(shared / "data" / path)
    assert len(plate.position_names) == positions
    top = zarr.open_group(shared / "data" / path, mode="r")
    for name in plate.position_names[:2] + plate.position_names[-1:]:
        position = plate[name]
        assert (position.axes, position.channel_names) == (axes, channels)
        for resolution, stored in enumerate(position.metadata.paths):
            expected = top[f"{name}/{stored}" if plate.is_hcs else stored][...]
            found = read(position.array(resolution).read(), where=name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, with_all_axes(expected, axes))
        for label in position.label_names():
            stored = top[f"{name}/labels/{label}/0" if plate.is_hcs else f"labels/{label}/0"]
            np.testing.assert_array_equal(
                position.label(label)[0, 0].read().result(), stored[...].reshape(stored.shape[-3:])
            )


@pytest.mark.parametrize("path", INVALID)
def test_invalid_plates_give_one_clear_line(shared, path):
    with pytest.raises(UserError) as caught:
        list(open_plate(shared / "data" / path).position_names)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in INVALID[path])


def test_pixel_sizes_of_real_plates(shared):
    assert open_plate(shared / "data/isl_neurons_v04.zarr")["A/4/0"].pixel_size_um == (1.0, 0.5, 0.5)
    image = open_plate(shared / "data/foreign_plates/ez_zarr/tests/example_data_zarr3/6001240_labels_v0.5.zarr")["0"]
    assert image.pixel_size_um == (0.5002025531914894, 1.4415926138560835, 1.4415926138560835)
    assert image.scale == (1.0, 1.0, *image.pixel_size_um)


ALLOWED_AXES = ["yx", "zyx", "cyx", "czyx", "tyx", "tzyx", "tcyx", "tczyx", "xy", "zxy", "cxyz"]
DTYPES = [
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    ">u2",
    ">f4",
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=st.sampled_from(ALLOWED_AXES),
    dtype=st.sampled_from(DTYPES),
    version=st.sampled_from(["0.4", "0.5"]),
    sizes=st.fixed_dictionaries({a: st.integers(1, 5) for a in "tczyx"}),
    hcs=st.booleans(),
)
def test_any_axes_and_dtype_read_like_zarr_python(tmp_path, zarr_plate, zarr_image, axes, dtype, version, sizes, hcs):
    rng = np.random.default_rng(0)
    array = (rng.random([sizes[a] for a in axes]) * 100).astype(
        dtype if version == "0.4" else np.dtype(dtype).newbyteorder("<")
    )
    if hcs:
        path = zarr_plate(tmp_path / "p.zarr", {"B/07/f1": array}, axes, version)
    else:
        path = tmp_path / "i.zarr"
        zarr_image(zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3), array, axes, version)
    position = next(open_plate(path).positions())
    assert position.name == ("B/07/f1" if hcs else "0")
    assert position.axes == axes
    assert position.dtype == np.dtype(dtype).newbyteorder("=")
    assert position.shape == tuple(sizes[a] if a in axes else 1 for a in "tczyx")
    np.testing.assert_array_equal(position.array()[...].read().result(), with_all_axes(array, axes))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("micrometer", 1),
        ("nanometer", 1e-3),
        ("millimeter", 1e3),
        ("angstrom", 1e-4),
        ("meter", 1e6),
        ("inch", 25400),
        ("µm", 1),
        (None, 1),
    ],
)
def test_pixel_size_in_micrometres(tmp_path, zarr_plate, unit, factor):
    path = zarr_plate(
        tmp_path / "p.zarr", {"A/1/0": np.zeros((2, 3, 4), "u1")}, "zyx", scale=[2.0, 0.5, 0.25], unit=unit
    )
    position = open_plate(path)["A/1/0"]
    assert position.pixel_size_um == pytest.approx((2 * factor, 0.5 * factor, 0.25 * factor))
    assert position.scale == (1, 1, 2.0, 0.5, 0.25)


def test_scale_of_the_whole_multiscale_multiplies(tmp_path, zarr_plate):
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.zeros((2, 3, 4), "u1")}, "zyx", scale=[2.0, 0.5, 0.25])
    group = zarr.open_group(path / "A/1/0", mode="r+")
    multiscale = group.attrs["multiscales"][0]
    multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [10.0, 10.0, 10.0]}]
    group.attrs["multiscales"] = [multiscale]
    assert open_plate(path)["A/1/0"].pixel_size_um == (20.0, 5.0, 2.5)


def test_channels_by_name_and_index(tmp_path, zarr_plate):
    arrays = {"A/1/0": np.zeros((1, 3, 1, 4, 4), "u2")}
    position = open_plate(zarr_plate(tmp_path / "p.zarr", arrays, channels=["Phase", "DAPI"]))["A/1/0"]
    assert position.channel_names == ("Phase", "DAPI", "channel_2")
    assert [position.channel_index(c) for c in ("DAPI", 2, np.int64(0))] == [1, 2, 0]
    for wrong in ("dapi", 3, -1, True):
        with pytest.raises(UserError, match=r"A/1/0/\.zattrs.*'Phase', 'DAPI', 'channel_2'"):
            position.channel_index(wrong)
    twice = open_plate(zarr_plate(tmp_path / "q.zarr", arrays, channels=["a", "a", "b"]))["A/1/0"]
    with pytest.raises(UserError, match="twice"):
        twice.channel_index("a")
    many = open_plate(zarr_plate(tmp_path / "r.zarr", arrays, channels=list("abcd")))["A/1/0"]
    with pytest.raises(UserError, match=r"omero\.channels.*4.*3"):
        _ = many.channel_names


def test_mixed_plates_are_noticed(tmp_path, zarr_plate):
    images = {"A/1/0": np.zeros((1, 2, 1, 8, 8), "u2"), "A/2/0": np.zeros((1, 2, 1, 8, 4), "f4")}
    plate = open_plate(zarr_plate(tmp_path / "p.zarr", images, channels=["a", "b"]))
    assert describe_positions(plate) == {
        ((1, 2, 1, 8, 8), "uint16", ("a", "b")): ["A/1/0"],
        ((1, 2, 1, 8, 4), "float32", ("a", "b")): ["A/2/0"],
    }
    with pytest.raises(UserError, match=r"A/2/0.*float32.*A/1/0.*uint16"):
        require_same_channels(plate, ["a"])
    zarr.open_group(tmp_path / "p.zarr/A/2/0", mode="r+").attrs["omero"] = {
        "channels": [{"label": "b"}, {"label": "c"}]
    }
    with pytest.raises(UserError, match=r"A/2/0/\.zattrs: channel 'a' does not exist; there are \['b', 'c'\]"):
        require_same_channels(open_plate(plate.url), ["a"])
    with pytest.raises(UserError, match=r"A/2/0/\.zattrs: omero\.channels: \['b'\] where"):
        require_same_channels(open_plate(plate.url), [0])


def listing_peak(path: Path, wells: int) -> int:
    """Bytes that listing a plate of so many wells of 200 fields takes; none has an image, so none may be opened."""
    names = [f"A/{column}/{field}" for column in range(wells) for field in range(200)]
    create_plate(path, ngff_version="0.5", position_names=names)
    plate = open_plate(path)
    tracemalloc.start()
    for name, expected in zip(plate.iter_position_names(), names, strict=True):
        assert name == expected
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_listing_does_not_hold_the_plate(tmp_path):
    small, large = listing_peak(tmp_path / "small.zarr", 80), listing_peak(tmp_path / "large.zarr", 240)
    assert large < 1.2 * small  # 32000 names more, held, would be 2 MB on top of 0.2


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def http_url(tmp_path):
    """A web server for `tmp_path`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_on_a_web_server_reads_the_same(tmp_path, zarr_plate, http_url, version):
    array = np.random.default_rng(0).integers(0, 999, (1, 2, 3, 8, 8)).astype("u2")
    zarr_plate(tmp_path / "p.zarr", {"A/1/0": array}, version=version, channels=["a", "b"])
    plate = open_plate(f"{http_url}/p.zarr")
    assert plate.position_names == ("A/1/0",)
    np.testing.assert_array_equal(read(plate["A/1/0"].array().read(), "x"), array)
    assert plate["A/1/0"].label_names() == ()
    with pytest.raises(UserError, match=f"{http_url}/nothing.zarr: does not exist"):
        open_plate(f"{http_url}/nothing.zarr")
    with pytest.raises(UserError, match="can only be read"):
        plate["A/1/0"].write_attribute("a", 1)


def test_addresses_become_tensorstore_specifications(tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert kvstore_spec("a/p.zarr") == {"driver": "file", "path": f"{tmp_path}/a/p.zarr/"}
    assert kvstore_spec(Path("/a b/p.zarr/")) == {"driver": "file", "path": "/a b/p.zarr/"}
    assert kvstore_spec("file:///a%20b/p.zarr") == {"driver": "file", "path": "/a b/p.zarr/"}
    assert kvstore_spec("gs://bucket/a/p.zarr") == {"driver": "gcs", "bucket": "bucket", "path": "a/p.zarr/"}
    assert kvstore_spec("s3://bucket/p.zarr/") == {"driver": "s3", "bucket": "bucket", "path": "p.zarr/"}
    assert kvstore_spec("https://a.org/x/p.zarr") == {
        "driver": "http",
        "base_url": "https://a.org",
        "path": "/x/p.zarr/",
    }
    with pytest.raises(UserError, match="ftp://"):
        kvstore_spec("ftp://a/b")
    with pytest.raises(UserError, match="bucket"):
        kvstore_spec("gs:///b")


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}"])
def test_every_form_of_a_local_address_opens(tmp_path, zarr_plate, form):
    zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.ones((1, 1, 1, 2, 2), "u1")})
    assert open_plate(form.format(tmp_path / "p.zarr"))["A/1/0"].array().read().result().sum() == 4


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_attributes_of_image_well_and_plate(tmp_path, zarr_plate, version):
    """OME-NGFF 0.4 keeps its own `plate`, `well` and `omero` among them. What was found is not read again."""
    path = zarr_plate(tmp_path / "P.zarr", {"B/3/0": np.zeros((1, 1, 2, 4, 4), "u1")}, version=version, drug="taxol")
    for node, attributes in (("", {"site": {"lab": "x"}, "drug": "none"}), ("B/3", {"dose": 2, "site": "no section"})):
        zarr.open_group(path / node, mode="r+").attrs.update(attributes)
    position = open_plate(path)["B/3/0"]
    expected = {"drug": "taxol", "dose": 2, "site.lab": "x", "well": "B/3", "row": "B", "column": "3"}
    for _ in range(2):
        assert {key: position.find_attribute(key) for key in expected} == expected
        for name in (".zattrs", ".zgroup", "zarr.json"):
            for node in ("B/3", "."):
                (path / node / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="'multiscales' is no attribute"):
        position.find_attribute("multiscales")
    position.write_attribute("drug", "dmso")
    assert position.find_attribute("drug") == "dmso"


def test_arguments_of_other_types_are_named(tmp_path, zarr_plate):
    plate = open_plate(zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.zeros((1, 1, 1, 4, 4), "u2")}, channels=["a"]))
    for name in (b"A/1/0", 3, None, ["A/1/0"]):
        with pytest.raises(UserError, match=r"position .* does not exist"):
            _ = plate[name]
    for resolution in ("", 0.0, None, [0]):
        with pytest.raises(UserError, match=r"resolution .* does not exist"):
            plate["A/1/0"].array(resolution)
    for scope in ("plate", None, ["fov"]):
        with pytest.raises(UserError, match=r"statistics of scope .* do not exist; choose one of dataset, fov"):
            plate["A/1/0"].statistics("a", scope)
