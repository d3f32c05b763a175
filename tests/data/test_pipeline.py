"""The pipeline: which crop is read when, that it is the right one, and that it does not depend on processes."""

import numpy as np
import pytest

from vsjax.data.fovs import open_fovs
from vsjax.data.pipeline import CropReader, evaluation_batches, iterate_from, training_batches
from vsjax.data.roles import ChannelRole
from vsjax.data.sampling import GRID, Crop, CropSampler, grid_crops
from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.writer import create_plate

SHAPE = (2, 2, 4, 96, 80)  # T, C, Z, Y, X
SIZE = (3, 32, 32)
FOV = Normalization(scope="fov", statistic="mean_std")
ROLES = {
    "source": ChannelRole(channels=("BF",), normalization=FOV),
    "target": ChannelRole(channels=("nuclei",), normalization=FOV),
}


def make_plate(path, positions, seed):
    """A plate whose nuclei channel is bright in one corner of each FOV."""
    rng = np.random.default_rng(seed)
    images = []
    writer = create_plate(path, position_names=[f"A/1/{n}" for n in range(positions)])
    for n in range(positions):
        position = writer.create_position(
            f"A/1/{n}", shape=SHAPE, dtype=np.uint16, channel_names=["BF", "nuclei"], pixel_size_um=(1, 0.5, 0.5)
        )
        image = rng.integers(0, 1000, SHAPE).astype(np.uint16)
        image[:, 1, :, :24, :24] += 20000
        position.array().write(image).result()
        images.append(image)
    write_statistics(writer.plate, grid=4)
    return images


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plates")
    images = [make_plate(folder / "P.zarr", 3, 0), make_plate(folder / "Q.zarr", 1, 1)]
    fovs = open_fovs([str(folder / "P.zarr"), str(folder / "Q.zarr")])
    return fovs, [image for plate in images for image in plate]


def batches(fovs, **changes):
    sampler = CropSampler(fovs, SIZE, changes.pop("importance", None))
    reader = CropReader(fovs, SIZE, ROLES)
    return training_batches(fovs, sampler, reader, **{"batch_size": 8, "weights": (), "seed": 5, **changes})


def assert_same(first, second):
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_crops_hold_the_pixels_of_the_file(plates):
    fovs, images = plates
    sampler, reader = CropSampler(fovs, SIZE), CropReader(fovs, SIZE, ROLES)
    rng = np.random.default_rng(0)
    crops = [sampler.draw(n % len(fovs), n % 2, rng) for n in range(12)]
    batch = reader(crops)
    for row, crop in enumerate(crops):
        z, y, x = crop.origin
        expected = images[crop.fov][crop.time, :, z : z + 3, y : y + 32, x : x + 32]
        np.testing.assert_array_equal(batch["source"][row, ..., 0], expected[0])
        np.testing.assert_array_equal(batch["target"][row, ..., 0], expected[1])


def test_pixels_keep_a_small_type_that_all_images_share(plates, tmp_path):
    writer = create_plate(tmp_path / "F.zarr", position_names=["A/1/0"])
    position = writer.create_position(
        "A/1/0", shape=SHAPE, dtype=np.float64, channel_names=["BF", "nuclei"], pixel_size_um=(1, 0.5, 0.5)
    )
    image = np.random.default_rng(0).normal(size=SHAPE)
    position.array().write(image).result()
    write_statistics(writer.plate, grid=4)
    of_whole_numbers, of_floats = plates[0], open_fovs([str(tmp_path / "F.zarr")])
    for fovs, dtype in (
        (of_whole_numbers, np.uint16),
        (of_whole_numbers + of_floats, np.float32),
        (of_floats, np.float32),
    ):
        reader = CropReader(fovs, SIZE, ROLES)
        for fov in (0, len(fovs) - 1):  # whatever else is in the batch
            assert reader([Crop(fov, 0, (0, 0, 0))])["source"].dtype == dtype
    batch = reader([Crop(0, 1, (1, 30, 40))])
    np.testing.assert_array_equal(batch["source"][0, ..., 0], image[1, 0, 1:4, 30:62, 40:72].astype(np.float32))


def test_statistics_are_those_of_the_fov(plates):
    fovs, images = plates
    sampler, reader = CropSampler(fovs, SIZE), CropReader(fovs, SIZE, ROLES)
    batch = reader([sampler.draw(2, 1, np.random.default_rng(0))])
    sampled = images[2][:, 0, :, ::4, ::4]
    np.testing.assert_allclose(batch["source_location"][0, 0], sampled.mean(), rtol=1e-6)
    np.testing.assert_allclose(batch["source_scale"][0, 0], sampled.std(), rtol=1e-5)


def test_batch_is_a_function_of_seed_and_step(plates):
    fovs, _ = plates
    first = batches(fovs)
    assert_same(first[3], batches(fovs)[3])
    straight = iterate_from(batches(fovs), 0)
    for step in range(4):
        assert_same(next(straight), first[step])
    assert_same(next(iterate_from(batches(fovs), 3)), first[3])
    assert not np.array_equal(first[3]["source"], first[4]["source"])
    assert not np.array_equal(first[3]["source"], batches(fovs, seed=6)[3]["source"])


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batch_does_not_depend_on_the_number_of_processes(plates, processes):
    fovs, _ = plates
    whole = batches(fovs, importance="nuclei")
    rows = np.arange(8).reshape(processes, -1).tolist()
    parts = [batches(fovs, importance="nuclei", rows=part) for part in rows]
    for step in (0, 7):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in whole[step]}
        assert_same(joined, whole[step])


def test_plates_are_pooled_by_weight_whatever_their_size(plates):
    fovs, images = plates
    reads = batches(fovs, weights=(1.0, 3.0), batch_size=40)
    of_second = [
        np.isclose(reads[step]["source_location"][:, 0], images[3][:, 0, :, ::4, ::4].mean()) for step in range(10)
    ]
    assert abs(np.mean(of_second) - 0.75) < 0.02


def test_crops_of_a_fov_follow_one_another(plates):
    """Four of each of the three FOVs and two time points, at places of their own; then the next epoch."""
    fovs, images = plates
    dataset = batches(fovs[:3], crops_per_fov=4, batch_size=24)
    orders = []
    for step in (0, 1):
        batch = dataset[step]
        of = [tuple(place) for crop in batch["source"] for place in places_of(crop[..., 0], images[:3])]
        assert len(of) == 24
        assert of == [pair for pair in of[::4] for _ in range(4)]
        assert sorted(of[::4]) == [(fov, time) for fov in range(3) for time in range(2)]
        assert len({crop.tobytes() for crop in batch["source"]}) == 24
        orders.append(of[::4])
    assert orders[0] != orders[1]
    parts = [batches(fovs[:3], crops_per_fov=4, batch_size=24, rows=rows) for rows in (range(9), range(9, 24))]
    assert_same({name: np.concatenate([part[1][name] for part in parts]) for name in batch}, batch)
    mixed = batches(fovs, crops_per_fov=4, weights=(1.0, 3.0), batch_size=400)[0]
    of_second = np.isclose(mixed["source_location"][:, 0], images[3][:, 0, :, ::4, ::4].mean())
    assert abs(of_second.mean() - 0.75) < 0.02


def places_of(crop, images):
    """The FOVs and time points in which the first row of a crop occurs."""
    rows = np.lib.stride_tricks.sliding_window_view(np.stack(images)[:, :, 0], crop.shape[2], axis=-1)
    return np.argwhere((rows == crop[0, 0]).all(-1).any((2, 3, 4))).tolist()


def test_importance_draws_crops_where_the_label_is(plates):
    fovs, images = plates
    rng = np.random.default_rng(0)
    sampler = CropSampler(fovs, (1, GRID, GRID), "nuclei")
    centres = np.array([sampler.draw(0, 0, rng).origin for _ in range(4000)])[:, 1:] + GRID // 2
    counts, _, _ = np.histogram2d(*centres.T, bins=[np.arange(0, 97, GRID), np.arange(0, 81, GRID)])
    image = images[0][0, 1, :, GRID // 2 :: GRID, GRID // 2 :: GRID].mean(axis=0)
    weights = np.maximum(image - np.percentile(image, 5), 0)
    weights += 0.1 * weights.mean()
    # Cells at the rim take the centres that were moved inside, so only the interior follows the map.
    share = counts[1:-1, 1:-1].sum() / counts.sum()
    expected = weights[1:-1, 1:-1].sum() / weights.sum()
    assert abs(share - expected) < 0.05
    assert (centres < 32).all(axis=1).mean() > 0.6


def test_uniform_crops_cover_everything(plates):
    fovs, _ = plates
    rng = np.random.default_rng(1)
    sampler = CropSampler(fovs, SIZE)
    origins = np.array([sampler.draw(0, 0, rng).origin for _ in range(3000)])
    assert origins.min(axis=0).tolist() == [0, 0, 0]
    assert origins.max(axis=0).tolist() == [1, 64, 48]
    assert abs(origins[:, 1].mean() - 32) < 1.5


def test_windows_beyond_the_stack_repeat_its_ends(plates):
    fovs, images = plates
    sampler = CropSampler(fovs, SIZE, z_margins=(1, 1))
    rng = np.random.default_rng(2)
    crops = [sampler.draw(0, 0, rng) for _ in range(200)]
    assert {crop.origin[0] for crop in crops} == {-1, 0, 1, 2}
    batch = CropReader(fovs, SIZE, ROLES)(crops)
    for row, crop in enumerate(crops[:50]):
        z, y, x = crop.origin
        stack = np.pad(images[0][0, 0, :, y : y + 32, x : x + 32], ((1, 1), (0, 0), (0, 0)), mode="edge")
        np.testing.assert_array_equal(batch["source"][row, ..., 0], stack[z + 1 : z + 4])


def test_validation_sees_every_crop_once(plates):
    fovs, images = plates
    crops = grid_crops(fovs, SIZE, 1000)
    assert len(crops) == 4 * 2 * 3 * 2
    reader = CropReader(fovs, SIZE, ROLES)
    found = list(evaluation_batches(crops, reader, 10))
    assert sum(batch["weight"].sum() for batch in found) == len(crops)
    assert [len(batch["source"]) for batch in found] == [10] * 5
    total = sum((batch["source"].sum(axis=(1, 2, 3, 4)) * batch["weight"]).sum() for batch in found)
    expected = sum(image[:, 0, :3, :, 8:72].sum(dtype=np.float64) for image in images)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert len(grid_crops(fovs, SIZE, 7)) == 7


def test_missing_statistics_name_the_command(tmp_path):
    writer = create_plate(tmp_path / "P.zarr", position_names=["A/1/0"])
    writer.create_position(
        "A/1/0", shape=SHAPE, dtype=np.uint16, channel_names=["BF", "nuclei"], pixel_size_um=(1, 1, 1)
    )
    fovs = open_fovs([str(tmp_path / "P.zarr")])
    with pytest.raises(UserError, match=r"python -m vsjax\.preprocess --plate"):
        CropReader(fovs, SIZE, ROLES)


def test_crop_larger_than_the_image(plates):
    fovs, _ = plates
    with pytest.raises(UserError, match="the image has 80 voxels in x but training reads 88"):
        CropSampler(fovs, (3, 88, 88))


@pytest.mark.parametrize("change", [{"weights": (1.0,)}, {"weights": (1.0, 0.0)}])
def test_bad_settings_are_refused(plates, change):
    with pytest.raises(UserError, match=r"config\.data\.weights"):
        batches(plates[0], **change)


def test_a_broken_chunk_of_the_importance_channel_is_one_line(tmp_path):
    make_plate(tmp_path / "P.zarr", 1, 0)
    fovs = open_fovs([str(tmp_path / "P.zarr")])
    for chunk in (path for path in (tmp_path / "P.zarr" / "A/1/0/0/c").rglob("*") if path.is_file()):
        chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"A/1/0: cannot be read.*check that the file is complete") as error:
        CropSampler(fovs, SIZE, "nuclei").draw(0, 0, np.random.default_rng(0))
    assert "\n" not in str(error.value)
