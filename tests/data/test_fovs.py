"""Opening and splitting FOVs."""

import numpy as np
import pytest

from vsjax.data.fovs import check_uniform, open_fields, split_fields
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
def fields(tmp_path):
    write_plate(tmp_path / "P.zarr")
    return open_fields([str(tmp_path / "P.zarr")], ["BF"], ["nuclei"])


def names_of(fields):
    return [field.position.name for field in fields]


def test_channels_are_looked_up(fields):
    assert [(field.source, field.target, field.plate) for field in fields] == [((0,), (1,), 0)] * 5


def test_named_wells_and_fovs(fields):
    train, val = split_fields(fields, ["A"], ["B/1/0"], 0.5, 0)
    assert names_of(train) == ["A/1/0", "A/1/1", "A/2/0", "A/10/0"]
    assert names_of(val) == ["B/1/0"]
    train, val = split_fields(fields, [], ["A/1"], 0.5, 0)  # A/1 is not A/10
    assert names_of(val) == ["A/1/0", "A/1/1"]
    assert names_of(train) == ["A/2/0", "A/10/0", "B/1/0"]


def test_seeded_split_is_a_partition_of_the_asked_size(fields):
    splits = {tuple(names_of(split_fields(fields, [], [], 0.4, seed)[1])) for seed in range(20)}
    assert {len(split) for split in splits} == {2}
    assert len(splits) > 3
    train, val = split_fields(fields, [], [], 0.4, 7)
    assert sorted(names_of(train) + names_of(val)) == sorted(NAMES)
    assert names_of(split_fields(fields, [], [], 0.4, 7)[1]) == names_of(val)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["C/1"], [], "no FOV or well is named 'C/1'"),
        (["A"], ["A/1/0"], "both name A/1/0"),
        ([], ["A", "B"], "no FOV is left"),
    ],
)
def test_wrong_splits_are_refused(fields, train, val, message):
    with pytest.raises(UserError, match=message):
        split_fields(fields, train, val, 0.2, 0)


def test_no_plate_is_refused():
    with pytest.raises(UserError, match=r"config\.data\.plates"):
        open_fields([], ["BF"], ["nuclei"])


@pytest.mark.parametrize(("change", "word"), [({"dtype": np.float32}, "dtype"), ({"shape": (1, 2, 3, 8, 9)}, "shape")])
def test_mixed_positions_are_refused(tmp_path, change, word):
    writer = write_plate(tmp_path / "P.zarr")
    settings = {"dtype": np.uint16, "shape": (1, 2, 3, 8, 8), **change}
    writer.create_position("B/2/0", channel_names=["BF", "nuclei"], pixel_size_um=(1, 1, 1), **settings)
    mixed = open_fields([str(tmp_path / "P.zarr")], ["BF"], ["nuclei"])
    with pytest.raises(UserError, match=f"B/2/0: {word} .* differs"):
        check_uniform(mixed)
    check_uniform(mixed[:-1])
