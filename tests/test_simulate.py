"""The simulator: a position is a function of the seed, and the plate holds exactly what was simulated."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

from vsjax.errors import UserError
from vsjax.optics.imaging import Microscope
from vsjax.schema import parse
from vsjax.simulate import main
from vsjax.simulation import (
    CHANNELS,
    SIMULATION_ATTRIBUTE,
    SimulationConfig,
    fov_grid,
    position_name,
    simulate_cells,
    simulate_position,
    simulate_specimen,
    write_plate,
)

SMALL = {"shape": (3, 48, 56), "pixel_size_um": (2.0, 0.5, 0.4)}


def plate_array(plate: Path, name: str) -> np.ndarray:
    """The full-resolution image by zarr-python alone."""
    return zarr.open_group(plate, mode="r")[f"{name}/0"][:]


@pytest.mark.parametrize("ngff_version", ["0.4", "0.5"])
def test_the_plate_holds_what_was_simulated(tmp_path, ngff_version):
    config = SimulationConfig(**SMALL, seed=3, time_points=2)
    plate = tmp_path / "p.zarr"
    write_plate(str(plate), config, 5, ngff_version=ngff_version, threads=2)
    for index in (0, 4):
        name = position_name(index)
        image, labels = simulate_position(config, index)
        np.testing.assert_array_equal(plate_array(plate, name), image)
        for label, values in labels.items():
            stored = plate_array(plate, f"{name}/labels/{label}")
            np.testing.assert_array_equal(stored.reshape(values.shape), values)
            assert values.max() > 0
    attributes = dict(zarr.open_group(plate, mode="r").attrs)
    assert attributes[SIMULATION_ATTRIBUTE]["complete"] is True
    assert attributes[SIMULATION_ATTRIBUTE]["seed"] == 3


def test_the_plate_is_read_back_with_names_scale_and_labels(tmp_path):
    from vsjax.plates.reader import open_plate

    config = SimulationConfig(**SMALL, channels=("BF", "nuclei"))
    write_plate(str(tmp_path / "p.zarr"), config, 2)
    plate = open_plate(tmp_path / "p.zarr")
    position = plate["A/1/1"]
    assert position.channel_names == ("BF", "nuclei")
    assert position.pixel_size_um == config.pixel_size_um
    assert position.dtype == np.uint16
    assert set(position.label_names()) == {"nuclei", "cells"}
    assert position.attributes[SIMULATION_ATTRIBUTE] == {"seed": 0, "index": 1}


def test_the_same_seed_gives_the_same_position_and_another_seed_does_not():
    image, labels = simulate_position(SimulationConfig(**SMALL, seed=7), 2)
    again, labels_again = simulate_position(SimulationConfig(**SMALL, seed=7), 2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels["cells"], labels_again["cells"])
    for other in (
        simulate_position(SimulationConfig(**SMALL, seed=8), 2),
        simulate_position(SimulationConfig(**SMALL, seed=7), 3),
    ):
        assert (other[1]["cells"] != labels["cells"]).mean() > 0.2


def test_later_time_points_and_other_channels_change_nothing_before_them():
    image, labels = simulate_position(SimulationConfig(**SMALL, time_points=3), 0)
    first, first_labels = simulate_position(SimulationConfig(**SMALL, time_points=1), 0)
    np.testing.assert_array_equal(image[:1], first)
    np.testing.assert_array_equal(labels["nuclei"][:1], first_labels["nuclei"])
    assert (labels["cells"][0] != labels["cells"][2]).any()
    some, _ = simulate_position(SimulationConfig(**SMALL, channels=("membrane", "BF")), 0)
    assert some.dtype == np.uint16
    np.testing.assert_array_equal(some[:, 0], first[:, CHANNELS.index("membrane")])
    np.testing.assert_array_equal(some[:, 1], first[:, CHANNELS.index("BF")])


def test_cells_keep_their_number_while_they_move():
    config = SimulationConfig(shape=(5, 96, 96), pixel_size_um=(2.0, 0.6, 0.6), time_points=3)
    labels = simulate_position(config, 0)[1]["cells"][:, 0]
    for number in np.intersect1d(np.unique(labels[0])[1:], np.unique(labels[2])):
        a, b = labels[0] == number, labels[2] == number
        if min(a.sum(), b.sum()) > 200:
            assert (a & b).sum() > 0.5 * max(a.sum(), b.sum())


@pytest.mark.parametrize(
    ("shape", "pixel"),
    [((12, 64, 64), (1.0, 0.3, 0.3)), ((1, 40, 50), (3.0, 0.5, 0.5)), ((30, 32, 32), (0.25, 0.2, 0.2))],
)
def test_slices_lie_at_their_height_in_the_specimen(shape, pixel):
    config = SimulationConfig(shape=shape, pixel_size_um=pixel)
    grid = fov_grid(config)
    height = (np.array(grid.focal_layers) - (grid.shape[0] - 1) / 2) * grid.pixel_size_um[0]
    np.testing.assert_allclose(height, (np.arange(shape[0]) - (shape[0] - 1) / 2) * pixel[0], atol=1e-9)
    assert grid.shape[0] * grid.pixel_size_um[0] >= config.model.layer_um
    assert grid.crop(np.empty(grid.shape)).shape[1:] == shape[1:]


def test_labels_lie_on_the_stain_that_they_describe():
    config = SimulationConfig(shape=(12, 128, 128))
    image, labels = simulate_position(config, 0)
    nuclei = image[0, CHANNELS.index("nuclei")]
    background = nuclei[labels["cells"][0, 0] == 0]
    assert np.median(nuclei[labels["nuclei"][0, 0] > 0]) > 3 * np.median(background)
    specimen = simulate_specimen(config, 0, next(simulate_cells(config, 0)))
    grid = fov_grid(config)
    expected = grid.crop(specimen.labels["nuclei"][list(grid.focal_layers)])
    np.testing.assert_array_equal(labels["nuclei"][0, 0], expected)


def test_counts_of_an_empty_place_are_those_of_the_exposure():
    image, labels = simulate_position(SimulationConfig(shape=(12, 160, 160)), 1)
    medium = ndimage.distance_transform_edt(~(labels["cells"][0, 0] > 0).any(0)) > 12
    assert medium.sum() > 100
    optics = Microscope()
    brightfield = image[0, CHANNELS.index("BF")][:, medium]
    assert np.median(brightfield) == pytest.approx(optics.brightfield_electrons + 100, rel=0.06)
    stray = image[0, CHANNELS.index("membrane")][:, medium].mean()
    assert 100 + optics.background_electrons - 1 < stray < 100 + optics.background_electrons + 15


def test_nuclei_can_be_told_from_brightfield_but_not_by_a_line():
    """A linear model on blurred slices explains a part of the stain on unseen FOVs: neither none nor all."""
    config = SimulationConfig(shape=(12, 160, 160), channels=("BF", "nuclei"))

    def features(index: int) -> tuple[np.ndarray, np.ndarray]:
        stack, stain = simulate_position(config, index)[0][0].astype(np.float32)
        stack = (stack - np.median(stack)) / stack.std()
        blurred = np.stack([ndimage.gaussian_filter(stack, (0, s, s)) for s in (0.7, 1.5, 3, 6, 12)], -1)
        window = np.concatenate([blurred[k : k + 8] for k in range(5)], -1).reshape(-1, 25)
        return np.column_stack([window, np.ones(len(window))]), stain[2:10].ravel()

    train, test = [features(index) for index in range(4)], [features(index) for index in (4, 5)]
    x, y = (np.concatenate(parts) for parts in zip(*train, strict=True))
    weights = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(26), x.T @ y)
    pearson = np.mean([np.corrcoef(x @ weights, y)[0, 1] for x, y in test])
    assert 0.55 < pearson < 0.8


def test_position_names_are_unique_and_fill_the_plate_row_by_row():
    assert [position_name(i) for i in (0, 3, 4, 47, 48)] == ["A/1/0", "A/1/3", "A/2/0", "A/12/3", "B/1/0"]
    assert position_name(26 * 48) == "AA/1/0"
    assert len({position_name(i) for i in range(5000)}) == 5000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": (0, 64, 64)}, "--shape"),
        ({"pixel_size_um": (1.0, -0.3, 0.3)}, "--pixel-size"),
        ({"pixel_size_um": (1.0, float("nan"), 0.3)}, "--pixel-size"),
        ({"seed": -1}, "--seed"),
        ({"cells": 0}, "--cells"),
        ({"time_points": 0}, "--time-points"),
        ({"channels": ("BF", "DAPI")}, "--channels"),
        ({"channels": ("BF", "BF")}, "--channels"),
        ({"microscope": {"objective_na": 1.4}}, "--objective-na"),
        ({"microscope": {"condenser_na": 0.9}}, "--condenser-na"),
    ],
)
def test_settings_out_of_range_are_named(change, field):
    with pytest.raises(UserError, match=field):
        parse(SimulationConfig, change, "settings", "")


def test_a_plate_that_does_not_fit_the_memory_is_refused(tmp_path):
    for change in ({"shape": (2**15, 2**15, 2**15)}, {"time_points": 10_000, "shape": (64, 4096, 4096)}):
        with pytest.raises(UserError, match=r"--shape .* GiB, of which this machine has"):
            write_plate(str(tmp_path / "p.zarr"), SimulationConfig(**change), 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("extra", [{"cells": 400}, {"positions": 0}])
def test_nothing_is_written_when_the_settings_cannot_be_met(tmp_path, extra):
    config = SimulationConfig(**SMALL, cells=extra.get("cells"))
    with pytest.raises(UserError, match="--"):
        write_plate(str(tmp_path / "p.zarr"), config, extra.get("positions", 2))
    assert not any(tmp_path.iterdir())


def test_an_existing_plate_is_replaced_only_when_told(tmp_path, monkeypatch):
    plate = tmp_path / "p.zarr"
    command = ["simulate", "--output", str(plate), "--positions", "1", "--shape", "2", "32", "32", "--channels", "BF"]
    monkeypatch.setattr("sys.argv", [*command, "--seed", "1"])
    main()
    before = plate_array(plate, "A/1/0")
    monkeypatch.setattr("sys.argv", [*command, "--seed", "2"])
    with pytest.raises(UserError, match=r"p\.zarr"):
        main()
    np.testing.assert_array_equal(plate_array(plate, "A/1/0"), before)
    monkeypatch.setattr("sys.argv", [*command, "--seed", "2", "--overwrite"])
    main()
    assert (plate_array(plate, "A/1/0") != before).any()
