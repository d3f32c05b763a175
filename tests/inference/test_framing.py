"""Plates whose positions differ in size: one program, and what each position gives alone."""

import numpy as np
import pytest
from local_network import save_checkpoint

from vsjax.inference.framing import LARGEST_RATIO, Framing, group_stacks
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.derived import Listener
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate

SMALL = {"encoder_blocks": (1, 1), "dims": (8, 16), "in_stack_depth": 2, "stem_kernel_size": (2, 4, 4)}
STACKS = {"A/1/0": (3, 60, 96), "A/1/1": (4, 96, 90), "A/2/0": (5, 96, 96), "B/1/0": (3, 64, 96)}


def make_plate(path, stacks):
    writer, random = create_plate(path), np.random.default_rng(0)
    for name, stack in stacks.items():
        options = {"channel_names": ["Phase"], "pixel_size_um": (0.5, 0.2, 0.2), "dtype": np.float32}
        position = writer.create_position(name, shape=(1, 1, *stack), **options)
        position.array().write(random.gamma(2, 100, (1, 1, *stack)).astype(np.float32)).result()
    write_statistics(open_plate(path), grid=1)


def pixels(path):
    plate = open_plate(path)
    return {name: np.asarray(plate[name].array()[0].read().result()) for name in plate.position_names}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp("framing")
    make_plate(path / "P.zarr", STACKS)
    save_checkpoint(path / "run", name="fcmae", target=("nuclei",), **SMALL)
    return path


@pytest.mark.parametrize(
    "settings",
    [{}, {"tta": "median"}, {"tile": (96, 64), "margin": 8, "batch_size": 3}],
    ids=lambda settings: "-".join(settings) or "whole",
)
def test_one_program_for_all_shapes(work, tmp_path, settings):
    """In either order; the planes are in frames of 96 x 96, the windows per call those of the shallowest stack."""
    settings, predictor = PredictionSettings(**settings), load(work / "run")
    predict_plate(predictor, work / "P.zarr", tmp_path / "S.zarr", settings=settings)
    backwards = load(work / "run")
    predict_plate(backwards, work / "P.zarr", tmp_path / "B.zarr", settings=settings, positions=list(STACKS)[::-1])
    assert len(predictor.compiled._programs) == len(backwards.compiled._programs) == 1
    (record,) = open_plate(tmp_path / "S.zarr").attributes["vsjax"]["resolved"].values()
    assert record["batch_size"] == 2
    source, found, again = open_plate(work / "P.zarr"), pixels(tmp_path / "S.zarr"), pixels(tmp_path / "B.zarr")
    one_by_one = load(work / "run")
    for name, volume in pixels(work / "P.zarr").items():
        statistics = {"Phase": source[name].attributes["normalization"]["Phase"]["fov_statistics"]}
        alone = one_by_one.predict(volume, settings, axes="CZYX", statistics=statistics)
        np.testing.assert_allclose(found[name], alone, atol=1e-5 * np.abs(alone).max())
        np.testing.assert_array_equal(found[name], again[name])


def test_a_resumed_run_takes_the_frames_of_all_positions(work, tmp_path):
    """Also of those that were finished before, and by two processes."""

    class Stop(Listener):
        def position_finished(self, name):
            if name == "A/1/1":
                raise KeyboardInterrupt

    predict_plate(load(work / "run"), work / "P.zarr", tmp_path / "whole.zarr")
    with pytest.raises(KeyboardInterrupt):
        predict_plate(load(work / "run"), work / "P.zarr", tmp_path / "S.zarr", listener=Stop())
    assert predict_plate(load(work / "run"), work / "P.zarr", tmp_path / "S.zarr").finished_before >= 2
    for process in (0, 1):
        predict_plate(load(work / "run"), work / "P.zarr", tmp_path / "two.zarr", process=process, processes=2)
    whole = pixels(tmp_path / "whole.zarr")
    for output in ("S.zarr", "two.zarr"):
        for name, volume in pixels(tmp_path / output).items():
            np.testing.assert_array_equal(volume, whole[name])


def test_networks_without_frames_compile_each_shape(tmp_path):
    make_plate(tmp_path / "P.zarr", STACKS)
    save_checkpoint(tmp_path / "run")
    predictor = load(tmp_path / "run")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    planes = {(y, x) for _, y, x, _ in (key[0][1:] for key in predictor.compiled._programs)}
    assert planes == {(60, 96), (96, 92), (96, 96), (64, 96)}


def test_groups():
    """Every plane has one, none is put into a frame of more than twice its pixels; equal planes share theirs."""
    random = np.random.default_rng(0)
    stacks = {tuple(map(int, stack)) for stack in random.integers(1, 40, (300, 3)) * 32}
    groups = group_stacks(frozenset(stacks), framed=True)
    planes = [plane for group in groups for plane in group.planes]
    assert sorted(planes) == sorted({stack[1:] for stack in stacks})
    assert len(groups) < len(planes) / 5
    for group in groups:
        area = np.prod(group.frame)
        assert all(y <= group.frame[0] and x <= group.frame[1] for y, x in group.planes)
        assert all(area <= LARGEST_RATIO * y * x for y, x in group.planes)
        assert group.depth == min(stack[0] for stack in stacks if stack[1:] in group.planes)
    assert len(group_stacks(frozenset(stacks), framed=False)) == len(planes)
    (one,) = group_stacks(frozenset({(5, 64, 64), (9, 64, 64)}), framed=True)
    assert (one.framed, one.depth) == (False, 5)


@pytest.mark.parametrize("turns", range(4))
def test_where_an_image_lies_in_a_turned_frame(turns):
    framing = Framing((3, 5), (8, 7))
    turned = np.rot90(framing.put(np.ones((1, 3, 5, 1)))[0, ..., 0], turns)
    top, bottom, left, right = framing.region(turns)
    assert turned[top:bottom, left:right].all()
    assert turned.sum() == (bottom - top) * (right - left) == 15
    np.testing.assert_array_equal(framing.take(framing.put(np.ones((2, 3, 5, 1)))), np.ones((2, 3, 5, 1)))
