"""Opening and splitting FOVs."""

import numpy as np
import pytest

from vsjax.data.fovs import check_uniform, open_fovs, split_fovs
from vsjax.errors import UserError
from vsjax.plates.writer import create_plate

NAMES = ("A/1/0", "A/1/1", "A/2/0", "A/10/0", "B/1/0")


def write_plate(path, names=NAMES, dtype=np.uint16, shape=(1, 2, 3, 8, 8)):
    writer = create_plate(path, position_names=names)
    for name in names:
        writer.create_position(
            name, shape=shape, dtype=dtype, channel_names=["BF", "nuclei"], pixel_size_um=(1.0, 0.5, 0.5)
        )
    return writer


@pytest.fixture
def fovs(tmp_path):
    write_plate(tmp_path / "P.zarr")
    return open_fovs([str(tmp_path / "P.zarr")])


def names_of(fovs):
    return [fov.position.name for fov in fovs]


def test_every_position_of_every_plate(tmp_path, fovs):
    write_plate(tmp_path / "Q.zarr", NAMES[:1])
    found = open_fovs([str(tmp_path / "P.zarr"), str(tmp_path / "Q.zarr")])
    assert [(fov.position.name, fov.plate) for fov in found] == [*((name, 0) for name in NAMES), (NAMES[0], 1)]


def test_named_wells_and_fovs(fovs):
    train, val = split_fovs(fovs, ["A"], ["B/1/0"], 0.5, 0)
    assert names_of(train) == ["A/1/0", "A/1/1", "A/2/0", "A/10/0"]
    assert names_of(val) == ["B/1/0"]
    train, val = split_fovs(fovs, [], ["A/1"], 0.5, 0)  # A/1 is not A/10
    assert names_of(val) == ["A/1/0", "A/1/1"]
    assert names_of(train) == ["A/2/0", "A/10/0", "B/1/0"]


def test_seeded_split_is_a_partition_of_the_asked_size(fovs):
    splits = {tuple(names_of(split_fovs(fovs, [], [], 0.4, seed)[1])) for seed in range(20)}
    assert {len(split) for split in splits} == {2}
    assert len(splits) > 3
    train, val = split_fovs(fovs, [], [], 0.4, 7)
    assert sorted(names_of(train) + names_of(val)) == sorted(NAMES)
    assert names_of(split_fovs(fovs, [], [], 0.4, 7)[1]) == names_of(val)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["C/1"], [], "no FOV or well is named 'C/1'"),
        (["A"], ["A/1/0"], "both name A/1/0"),
        ([], ["A", "B"], "no FOV is left"),
    ],
)
def test_wrong_splits_are_refused(fovs, train, val, message):
    with pytest.raises(UserError, match=message):
        split_fovs(fovs, train, val, 0.2, 0)


def test_no_plate_is_refused():
    with pytest.raises(UserError, match=r"config\.data\.plates"):
        open_fovs([])


@pytest.mark.parametrize(("change", "word"), [({"dtype": np.float32}, "dtype"), ({"shape": (1, 2, 3, 8, 9)}, "shape")])
def test_mixed_positions_are_refused(tmp_path, change, word):
    writer = write_plate(tmp_path / "P.zarr")
    settings = {"dtype": np.uint16, "shape": (1, 2, 3, 8, 8), **change}
    writer.create_position("B/2/0", channel_names=["BF", "nuclei"], pixel_size_um=(1, 1, 1), **settings)
    mixed = open_fovs([str(tmp_path / "P.zarr")])
    with pytest.raises(UserError, match=f"B/2/0: {word} .* differs"):
        check_uniform(mixed)
    check_uniform(mixed[:-1])
