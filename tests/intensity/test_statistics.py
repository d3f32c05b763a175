"""Statistics against NumPy, against VisCy's numbers, and their layout in the attributes."""

import json
import math
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vsjax.errors import UserError
from vsjax.intensity.distribution import PERCENTILES, Distribution
from vsjax.intensity.normalization import location_scale
from vsjax.intensity.statistics import compute_statistics, write_statistics
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate


def expected_statistics(values: np.ndarray) -> dict[str, float]:
    """The definition, by NumPy."""
    values = np.asarray(values, np.float64)
    p1, p5, p25, p50, p75, p95, p99 = np.nanpercentile(values, [1, 5, 25, 50, 75, 95, 99])
    return {
        **{"min": np.nanmin(values), "max": np.nanmax(values), "mean": np.nanmean(values), "std": np.nanstd(values)},
        **{"median": p50, "iqr": p75 - p25, "p5": p5, "p95": p95, "p95_p5": p95 - p5, "p1": p1, "p99": p99},
        "p99_p1": p99 - p1,
    }


def test_viscy_numbers(shared):
    values = np.load(shared / "golden/misc.npz")["stats_in"]
    golden = json.loads((shared / "golden/losses.json").read_text())["stats_of_misc_stats_in"]
    found = compute_statistics(values)
    assert list(found) == list(golden)
    assert found == pytest.approx(golden, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "int32", "float16", "float32", "float64"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(max_dims=3, max_side=9),
            elements=st.floats(-1000, 1000, width=16, allow_subnormal=False) | st.just(float("nan"))
            if dtype.startswith("f")
            else None,
        )
    )
)
def test_any_array_agrees_with_numpy(values):
    if np.isnan(values.astype(float)).all():
        with pytest.raises(ValueError, match="no values"):
            compute_statistics(values)
    else:
        expected = expected_statistics(values)
        scale = max(1.0, abs(expected["max"]), abs(expected["min"]))
        assert compute_statistics(values) == pytest.approx(expected, rel=1e-12, abs=1e-12 * scale)


@settings(max_examples=50, deadline=None)
@given(
    values=hnp.arrays("float32", st.integers(2, 300), elements=st.floats(-100, 100, width=32)),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    limit=st.integers(8, 64),
)
def test_pieces_in_any_order_give_the_whole(values, cuts, limit):
    """Also where bits had to be dropped: the table does not depend on how the values came."""
    pieces = np.split(values, sorted(min(c, len(values)) for c in cuts))
    forward, backward = Distribution(limit), Distribution(limit)
    for piece in pieces:
        forward.merge(Distribution.of(piece, limit))
    for piece in reversed(pieces):
        backward.merge(Distribution.of(piece, limit))
    whole = Distribution.of(values, limit)
    assert forward.percentiles() == backward.percentiles() == whole.percentiles()
    assert forward.statistics() == pytest.approx(whole.statistics(), rel=1e-9, abs=1e-9)
    assert whole.statistics()["mean"] == pytest.approx(np.mean(values, dtype=float), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ["normal", "lognormal", "offset"])
def test_a_million_floats_in_bounded_memory(kind):
    rng = np.random.default_rng(0)
    draw = {
        "normal": lambda: rng.normal(0, 1, 50_000).astype("f4"),
        "lognormal": lambda: rng.lognormal(3, 2, 50_000),
        "offset": lambda: rng.normal(1000, 1, 50_000),
    }[kind]
    distribution = Distribution(1 << 15)
    values = []
    for _ in range(20):
        values.append(draw())
        distribution.merge(Distribution.of(values[-1], 1 << 15))
    distribution.percentiles()
    assert len(distribution._keys) <= 1 << 15
    values = np.concatenate(values).astype(np.float64)
    expected = np.percentile(values, PERCENTILES)
    assert distribution.percentiles() == pytest.approx(expected, abs=2e-4 * values.std(), rel=2e-4)
    assert distribution.statistics()["std"] == pytest.approx(values.std(), rel=1e-12)


def images(rng, shapes, dtype="uint16"):
    return {f"A/{i}/0": (rng.random(shape) * 1000 * (i + 1)).astype(dtype) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_layout_and_values(tmp_path, zarr_plate, version, dtype):
    """FOV, time point and dataset, on the grid; positions of unlike size and number of time points."""
    arrays = images(np.random.default_rng(0), [(2, 2, 3, 70, 65), (3, 2, 2, 33, 40)], dtype)
    path = zarr_plate(tmp_path / "p.zarr", arrays, version=version, channels=["Phase", "DAPI"], mine=7)
    returned = write_statistics(open_plate(path))
    sampled = [array[..., ::32, ::32] for array in arrays.values()]
    top = zarr.open_group(path, mode="r")
    for index, channel in enumerate(("Phase", "DAPI")):
        pooled = np.concatenate([s[:, index].ravel() for s in sampled])
        dataset = pytest.approx(expected_statistics(pooled), rel=1e-9)
        times = {
            str(t): expected_statistics(np.concatenate([s[t, index].ravel() for s in sampled if t < len(s)]))
            for t in range(3)
        }
        assert returned[channel] == dataset
        on_plate = top.attrs["normalization"][channel]
        assert set(on_plate) == {"dataset_statistics", "timepoint_statistics"}
        for (name, _), sample in zip(arrays.items(), sampled, strict=True):
            attributes = dict(top[name].attrs)
            assert attributes["mine"] == 7
            found = attributes["normalization"][channel]
            assert set(found) == {"dataset_statistics", "fov_statistics", "timepoint_statistics"}
            assert found["dataset_statistics"] == on_plate["dataset_statistics"] == dataset
            assert found["timepoint_statistics"] == on_plate["timepoint_statistics"]
            assert found["fov_statistics"] == pytest.approx(expected_statistics(sample[:, index]), rel=1e-9)
            assert set(found["timepoint_statistics"]) == set(times)
            for t, expected in times.items():
                assert found["timepoint_statistics"][t] == pytest.approx(expected, rel=1e-9)
            position = open_plate(path)[name]
            assert position.statistics(channel, "dataset") == found["dataset_statistics"]
            assert position.statistics(index, "fov") == found["fov_statistics"]
            assert position.statistics(channel, "timepoint", 1) == found["timepoint_statistics"]["1"]


def test_more_time_points_than_tables(tmp_path, zarr_plate, monkeypatch):
    """Several passes over the time points give what one gives."""
    arrays = images(np.random.default_rng(0), [(7, 2, 1, 8, 8), (5, 2, 1, 8, 8)])
    paths = [zarr_plate(tmp_path / f"{i}.zarr", arrays) for i in range(2)]
    write_statistics(open_plate(paths[0]), grid=1)
    monkeypatch.setattr("vsjax.intensity.statistics._TABLES", 4)
    write_statistics(open_plate(paths[1]), grid=1, workers=1)
    one, two = (open_plate(path)["A/0/0"].attributes["normalization"] for path in paths)
    assert one == two
    assert list(one["channel_0"]["timepoint_statistics"]) == [str(t) for t in range(7)]


def test_axes_that_are_missing(tmp_path, zarr_plate):
    array = np.random.default_rng(0).integers(0, 99, (40, 50)).astype("u1")
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": array}, axes="yx")
    write_statistics(open_plate(path), grid=8)
    found = open_plate(path)["A/1/0"].statistics(0, "fov")
    assert found == pytest.approx(expected_statistics(array[::8, ::8]), rel=1e-12)


def test_a_second_run_writes_nothing(tmp_path, zarr_plate):
    arrays = images(np.random.default_rng(0), [(1, 3, 1, 40, 40)] * 2)
    path = zarr_plate(tmp_path / "p.zarr", arrays, channels=["a", "b", "c"])
    write_statistics(open_plate(path), ["a", 1])
    first = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob(".z*")}
    assert set(open_plate(path).attributes["normalization"]) == {"a", "b"}
    write_statistics(open_plate(path), ["a", "b"])
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob(".z*")} == first
    zarr.open_array(path / "A/0/0/0", mode="r+")[:, 1] = 5
    write_statistics(open_plate(path), ["b"])
    changed = open_plate(path)["A/0/0"].attributes["normalization"]
    assert changed["b"]["fov_statistics"]["max"] == 5
    before = json.loads(next(v[0] for p, v in first.items() if p == path / "A/0/0/.zattrs"))["normalization"]
    assert changed["a"] == before["a"]


def test_a_plate_prepared_by_viscy_needs_no_second_pass(tmp_path, zarr_plate):
    """VisCy 0.4 writes no min and max, and newer ones an Otsu threshold: both are read as they are, the latter kept."""
    statistics = {
        k: float(i) for i, k in enumerate(("mean", "std", "median", "iqr", "p5", "p95", "p95_p5", "p1", "p99"))
    }
    entry = {
        "dataset_statistics": statistics,
        "fov_statistics": statistics | {"otsu_threshold": 3.5},
        "timepoint_statistics": {"0": statistics},
    }
    path = zarr_plate(
        tmp_path / "p.zarr", {"A/1/0": np.zeros((1, 1, 1, 4, 4))}, channels=["DAPI"], normalization={"DAPI": entry}
    )
    position = open_plate(path)["A/1/0"]
    assert position.statistics("DAPI", "fov") == entry["fov_statistics"]
    assert position.statistics("DAPI", "dataset") == statistics
    assert position.statistics("DAPI", "timepoint", 0) == statistics


def test_missing_statistics_name_the_command(tmp_path, zarr_plate):
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.ones((1, 1, 1, 4, 4))}, channels=["DAPI"])
    for arguments in (("DAPI", "fov"), ("DAPI", "dataset"), ("DAPI", "timepoint", 0)):
        with pytest.raises(UserError, match=f"DAPI.*python -m vsjax.preprocess --plate {path}$"):
            open_plate(path)["A/1/0"].statistics(*arguments)
    write_statistics(open_plate(path))
    with pytest.raises(UserError, match="timepoint"):
        open_plate(path)["A/1/0"].statistics("DAPI", "timepoint", 1)


def test_nan_infinity_and_constants(tmp_path, zarr_plate):
    rng = np.random.default_rng(0)
    some = rng.random((1, 2, 1, 8, 8)).astype("f4")
    some[0, 1, 0, :4] = np.nan
    path = zarr_plate(tmp_path / "some.zarr", {"A/1/0": some}, channels=["a", "b"])
    write_statistics(open_plate(path), grid=1)
    assert open_plate(path)["A/1/0"].statistics("b", "fov") == pytest.approx(expected_statistics(some[:, 1]), rel=1e-9)

    path = zarr_plate(tmp_path / "constant.zarr", {"A/1/0": np.full((1, 1, 7, 11, 13), 0.1, "f4")})
    write_statistics(open_plate(path), grid=1)
    found = open_plate(path)["A/1/0"].statistics(0, "fov")
    assert found["std"] == found["iqr"] == 0
    assert found["median"] == found["mean"] == np.float32(0.1)

    for bad, words in ((np.nan, "NaN"), (np.inf, "infinite")):
        broken = some.copy()
        broken[:, 1] = bad
        path = zarr_plate(tmp_path / f"{bad}.zarr", {"A/1/0": some, "A/2/0": broken}, channels=["a", "b"])
        with pytest.raises(UserError, match=f"{path}/A/2/0: channel 'b'.*{words}"):
            write_statistics(open_plate(path), grid=1)


def test_nothing_is_written_if_a_position_is_bad(tmp_path, zarr_plate):
    path = zarr_plate(tmp_path / "p.zarr", images(np.random.default_rng(0), [(1, 2, 1, 8, 8)] * 3), channels=["a", "b"])
    zarr.open_group(path / "A/2/0", mode="r+").attrs["omero"] = {"channels": [{"label": "a"}, {"label": "x"}]}
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"A/2/0.*'b' does not exist"):
        write_statistics(open_plate(path))
    with pytest.raises(UserError, match="'nope' does not exist"):
        write_statistics(open_plate(path), ["nope"])
    with pytest.raises(UserError, match="grid"):
        write_statistics(open_plate(path), grid=0)
    (path / "A/1/0/0/.zarray").unlink()
    with pytest.raises(UserError, match=r"A/1/0/0.*does not exist"):
        write_statistics(open_plate(path), ["a"])
    assert {p: p.read_bytes() for p in before if p.exists()} == {k: v for k, v in before.items() if k.exists()}


def sampling_peak(path, positions: int) -> int:
    writer = create_plate(path, position_names=[f"A/{i}/0" for i in range(positions)])
    rng = np.random.default_rng(0)
    for name in writer.plate.position_names:
        image = writer.create_position(
            name, shape=(1, 1, 4, 64, 64), dtype="float32", channel_names=["a"], pixel_size_um=(1, 1, 1)
        )
        image.array()[...] = rng.random((1, 1, 4, 64, 64), "f4")
    tracemalloc.start()
    write_statistics(open_plate(path), grid=1, workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_plate(tmp_path, monkeypatch):
    monkeypatch.setattr("vsjax.intensity.distribution.MAX_DISTINCT", 1 << 14)
    small, large = sampling_peak(tmp_path / "small.zarr", 10), sampling_peak(tmp_path / "large.zarr", 120)
    # The peak depends by a fifth or so on how the reading threads fall together. Keeping what was sampled would add the
    # large plate's 7 MB to some 4 MB.
    assert large < 1.6 * small


def test_real_plate_by_the_program(shared, tmp_path):
    """`python -m vsjax.preprocess` on the ISL plate: NumPy's numbers of what zarr-python reads."""
    import shutil

    path = tmp_path / "isl.zarr"
    shutil.copytree(shared / "data/isl_neurons_v04.zarr", path)
    command = [sys.executable, "-m", "vsjax.preprocess", "--plate", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["channel", "Phase", "DAPI", "MAP2", "NFH"]
    top = zarr.open_group(path, mode="r")
    sampled = np.stack([top[f"A/4/{field}/0"][:, 1, :, ::32, ::32] for field in range(8)])
    found = top.attrs["normalization"]["DAPI"]
    assert found["dataset_statistics"] == pytest.approx(expected_statistics(sampled), rel=1e-12)
    own = top["A/4/3"].attrs["normalization"]["DAPI"]["fov_statistics"]
    assert own == pytest.approx(expected_statistics(sampled[3]), rel=1e-12)
    wrong = subprocess.run([*command, "--channels", "GFP"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert (
        wrong.stderr.strip()
        .splitlines()[-1]
        .startswith(f"vsjax.preprocess: error: {path}/A/4/0/.zattrs: channel 'GFP'")
    )


@pytest.mark.parametrize("offset", [0.0, 1e9, -1e9])
@pytest.mark.parametrize("parts", [1, 97])
def test_an_offset_cancels_nothing(offset, parts):
    """Against exact fractions: the deviation is of the numbers' differences, however much they have in common."""
    values = offset + np.random.default_rng(0).normal(0, 1e-3, 2000)
    pooled = Distribution()
    for part in np.array_split(values, parts):
        pooled.merge(Distribution.of(part))
    found = pooled.statistics()
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert found["mean"] == pytest.approx(float(mean), rel=1e-15, abs=1e-16)
    assert found["std"] == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("value", [1e300, -1e31, np.inf])
def test_values_that_float32_cannot_hold_are_refused(tmp_path, value):
    writer = create_plate(tmp_path / "p.zarr")
    image = np.ones((1, 1, 1, 8, 8))
    image[..., 3, 3] = value
    position = writer.create_position(
        "A/1/0", shape=image.shape, dtype=np.float64, channel_names=["a"], pixel_size_um=(1, 1, 1)
    )
    position.array().write(image).result()
    with pytest.raises(UserError, match=r"p.zarr/A/1/0: channel 'a' holds (values beyond 1e\+30|infinite values);"):
        write_statistics(open_plate(tmp_path / "p.zarr"), grid=1)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("text", "normalization: is 'text', not a JSON object"),
        ({"a": [1]}, r"normalization.a: is \[1\], not a JSON object"),
        ({"a": {"fov_statistics": True}}, "normalization.a.fov_statistics: is True, not a JSON object"),
        (
            {"a": {"fov_statistics": {"mean": "x"}}},
            "normalization.a.fov_statistics.mean: is 'x'; it must be a valid number",
        ),
        (
            {"a": {"fov_statistics": {"mean": True}}},
            "normalization.a.fov_statistics.mean: is True; it must be a valid num",
        ),
        ({"a": {"fov_statistics": {"mean": float("nan")}}}, "fov_statistics.mean: is nan; it must be "),
        ({"a": {"fov_statistics": {"mean": 1e308}}}, r"fov_statistics.mean: is 1e\+308; it must be less than or equal"),
        ({"a": {"fov_statistics": {"std": -1}}}, "fov_statistics.std: is -1; it must be greater than or equal to 0"),
        ({"a": {"fov_statistics": {"std": 1e400}}}, "fov_statistics.std: is inf; it must be a finite number"),
        ({"a": {"fov_statistics": {"std": None}}}, "lack 'mean' or 'std'"),
        ({"a": {"fov_statistics": {"mean": 0, "std": 1e-40}}}, "std is 1e-40, so it is constant"),
    ],
)
def test_damaged_statistics_are_named(tmp_path, zarr_plate, attribute, message):
    image = {"A/1/0": np.ones((1, 1, 1, 4, 4))}
    path = zarr_plate(tmp_path / "p.zarr", image, version="0.5", channels=["a"], normalization=attribute)
    position = open_plate(path)["A/1/0"]
    with pytest.raises(UserError, match=message) as error:
        location_scale(position.statistics("a", "fov"), "mean_std")
    assert "python -m vsjax.preprocess" in str(error.value) or "leave this channel" in str(error.value)
