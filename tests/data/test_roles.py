"""Roles: a batch with labels and classes beside the images; ids survive augmentation and stay with their objects."""

import jax
import numpy as np
import pytest

from vsjax.data.augmentation import AugmentConfig, augment, oversized_patch
from vsjax.data.fovs import open_fovs
from vsjax.data.pipeline import CropReader
from vsjax.data.roles import make_roles
from vsjax.data.sampling import Crop
from vsjax.errors import UserError
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate
from vsjax.tasks.inputs import Inputs

SHAPE = (2, 1, 5, 96, 104)
CHANNELS = {"channels": ("BF",), "normalization": {"scope": "fov", "statistic": "mean_std"}}
LABELS = {"labels": ("nuclei", "cells")}
DRUG = {"metadata": "perturbation.drug", "classes": ("dmso", "taxol")}
IDS = (7, 300, 70_000)  # more than 8 and 16 bits, and not in a row
EVERYTHING = AugmentConfig(
    rotation_probability=1.0,
    scale_probability=1.0,
    shear_probability=1.0,
    elastic_probability=1.0,
    flip_z_probability=0.5,
    intensity_scale_probability=1.0,
    noise_probability=1.0,
)


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """Three boxes with an id each, which are as bright as their id in the image."""
    path = tmp_path_factory.mktemp("roles") / "P.zarr"
    ids = np.zeros(SHAPE, np.uint32)
    for number, name in enumerate(IDS):
        ids[:, :, 1:4, 24 + 16 * number : 36 + 16 * number, 24 + 20 * number : 42 + 20 * number] = name
    writer = create_plate(path, position_names=["A/1/0", "A/2/0"])
    for name, drug in (("A/1/0", "taxol"), ("A/2/0", "dmso")):
        position = writer.create_position(
            name,
            shape=SHAPE,
            dtype=np.float32,
            channel_names=["BF"],
            pixel_size_um=(1, 1, 1),
            attributes={"perturbation": {"drug": drug}},
        )
        position.array().write(ids.astype(np.float32)).result()
        for label, factor in (("nuclei", 1), ("cells", 2)):
            writer.create_label(name, label, SHAPE, np.uint32).write(ids * factor).result()
    write_statistics(open_plate(path), grid=1)
    return path, ids


def read(path, roles, crops, size):
    return CropReader(open_fovs([str(path)]), size, make_roles(roles))(crops)


def test_a_batch_holds_what_each_role_names(plate):
    path, ids = plate
    roles = {
        "source": CHANNELS,
        "labels": LABELS,
        "drug": DRUG,
        "column": {"metadata": "column", "classes": ("1", "2")},
    }
    batch = read(path, roles, [Crop(0, 1, (1, 3, 4)), Crop(1, 0, (-1, 20, 30))], (3, 32, 40))
    np.testing.assert_array_equal(batch["labels"][0, ..., 0], ids[1, 0, 1:4, 3:35, 4:44])
    np.testing.assert_array_equal(batch["labels"][1, ..., 1], 2 * ids[0, 0, [0, 0, 1], 20:52, 30:70])
    np.testing.assert_array_equal(batch["source"][0, ..., 0], ids[1, 0, 1:4, 3:35, 4:44])
    assert batch["labels"].dtype == np.int32
    assert batch["drug"].tolist() == [1, 0]
    assert batch["column"].tolist() == [0, 1]


def test_ids_survive_augmentation_and_stay_with_their_objects(plate):
    """Whatever is turned, scaled, sheared, bent and flipped: no id is made up between two, and each lies where the
    image, which was moved with it, is as bright as the id."""
    path, _ = plate
    patch = (3, 16, 16)
    size = (5, *oversized_patch(EVERYTHING, patch)[1:])
    quiet = AugmentConfig(**{**EVERYTHING.__dict__, "noise_probability": 0.0, "intensity_scale_probability": 0.0})
    roles = {"source": {**CHANNELS, "normalization": {"scope": "none", "statistic": "mean_std"}}, "labels": LABELS}
    crops = [Crop(0, 0, (0, y, x)) for y in (0, 20, 40) for x in (0, 25, 50)]
    batch = read(path, roles, crops, size)
    inputs = Inputs(make_roles(roles), quiet, patch, 1)
    for seed in range(3):
        images = inputs.training(jax.random.key(seed), batch)
        labels, source = np.asarray(images["labels"]), np.asarray(images["source"])[:, 1:2, ..., 0]
        assert labels.shape == (9, 1, 16, 16, 2)
        assert labels.dtype == np.int32
        assert set(np.unique(labels[..., 0])) <= {0, *IDS}
        np.testing.assert_array_equal(labels[..., 1], 2 * labels[..., 0])
        assert len(np.unique(labels)) > 2
        whole = np.isin(np.round(source, 2), (0.0, *map(float, IDS)))  # not between an object and its surroundings
        assert whole.mean() > 0.5
        np.testing.assert_allclose(source[whole], labels[..., 0][whole], atol=0.01)


def test_images_are_augmented_as_without_labels(plate):
    path, _ = plate
    patch = (3, 16, 16)
    batch = read(path, {"source": CHANNELS, "labels": LABELS}, [Crop(0, 0, (0, 0, 0))] * 2, (5, 64, 64))
    volume = batch["source"] / 1e4
    key = jax.random.key(3)
    alone = augment(key, {"source": volume}, EVERYTHING, patch)["source"]
    labelled = augment(key, {"source": volume, "labels": batch["labels"]}, EVERYTHING, patch, nearest=["labels"])
    np.testing.assert_allclose(labelled["source"], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ({"labels": ("mitochondria",)}, r"label 'mitochondria' does not exist; there are \['nuclei', 'cells'\]"),
        ({"metadata": "perturbation.dose", "classes": ("1",)}, "'perturbation.dose' is no attribute"),
        ({"metadata": "perturbation.drug", "classes": ("dmso",)}, "drug is 'taxol', none of the classes dmso"),
        ({"channels": ("BF",)}, "config.roles.extra.normalization: is missing"),
        ({"pixels": ("BF",)}, "must have one of channels, labels, metadata"),
        ({"labels": ()}, "config.roles.extra.labels: .*one or more"),
    ],
)
def test_what_a_plate_lacks_is_one_line(plate, role, message):
    with pytest.raises(UserError, match=message) as error:
        read(plate[0], {"source": CHANNELS, "extra": role}, [Crop(0, 0, (0, 0, 0))], (1, 8, 8))
    assert "\n" not in str(error.value)
