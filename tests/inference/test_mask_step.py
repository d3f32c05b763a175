"""`python -m vsjax.preprocess masks`: labels beside the channels, by several processes, and what they say."""

import jax
import numpy as np
import pytest
import zarr
from skimage.filters import threshold_local

from tests.diffusion.fields import overlap, uneven_field
from vsjax.errors import UserError
from vsjax.models.registry import build_model
from vsjax.plates.derived_record import read_plate_record, read_position_record
from vsjax.plates.reader import open_plate
from vsjax.preprocess import main
from vsjax.runtime.checkpoint import save_variables

MODEL = {"name": "fcmae", "encoder_blocks": (1, 1), "dims": (8, 16), "in_stack_depth": 5, "stem_kernel_size": (5, 4, 4)}
TILED = ["--channels", "nuclei", "--tile", "64", "--clusters", "4", "--eigenvectors", "4"]


@pytest.fixture(scope="module")
def plate(tmp_path_factory, zarr_plate):
    """Three positions with cells in the second channel; the anchor is the first."""
    images, truth = {}, {}
    for number in range(3):
        image, truth[f"A/{number}/0"] = uneven_field(10 + number, side=96, cells=8, radius=(9, 13), slope=1)
        noise = np.random.default_rng(number).normal(size=(1, 1, 1, 96, 96))
        images[f"A/{number}/0"] = np.concatenate([noise, image[None, None, None]], axis=1) * 100 + 1000
    images = {name: image.astype(np.uint16) for name, image in images.items()}
    path = tmp_path_factory.mktemp("masks") / "P.zarr"
    return zarr_plate(path, images, version="0.5", channels=["BF", "nuclei"]), truth


@pytest.fixture(scope="module")
def weights(tmp_path_factory, describe_weights):
    """An encoder that was never trained."""
    network = build_model(**MODEL)
    volume = jax.ShapeDtypeStruct((1, 5, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), volume)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "fcmae"
    save_variables(path, variables, describe_weights(MODEL, ["BF"], ["BF"]))
    return path


def masks_of(path):
    return {p.name: p.label("nuclei_mask")[...].read().result() for p in open_plate(path).positions()}


def test_masks_beside_the_channels_by_several_processes(plate, tmp_path, capsys):
    plate, truth = plate
    main(["masks", "--plate", str(plate), "--output", str(tmp_path / "Q.zarr"), *TILED])
    assert "nuclei_mask" in capsys.readouterr().out
    masks = masks_of(tmp_path / "Q.zarr")
    for name, mask in masks.items():
        channels = [zarr.open_array(path / name / "0", mode="r")[...] for path in (plate, tmp_path / "Q.zarr")]
        np.testing.assert_array_equal(*channels)
        found = read_position_record(open_plate(tmp_path / "Q.zarr")[name]).found["0"]["nuclei"]
        assert found["foreground"] == pytest.approx(mask.mean())
        assert 2 <= found["clusters"] <= 4
    assert np.mean([overlap(masks[name][0, 0, 0] > 0, truth[name]) for name in truth]) > 0.7
    record = read_plate_record(tmp_path / "Q.zarr")
    assert record.about["features"]["name"] == record.settings["features"]["name"] == "intensity"
    assert record.settings["anchor"] == "A/0/0"
    flags = ["masks", "--plate", str(plate), "--output", str(tmp_path / "S.zarr"), *TILED, "--processes", "2"]
    for process in "01":
        main([*flags, "--process", process])
    for name, mask in masks_of(tmp_path / "S.zarr").items():
        np.testing.assert_array_equal(mask, masks[name])


def test_features_of_a_checkpoint_are_recorded(plate, weights, tmp_path):
    flags = ["masks", "--plate", str(plate[0]), "--features", str(weights), "--stage", "encoder_0", *TILED]
    main([*flags, "--output", str(tmp_path / "Q.zarr")])
    record = read_plate_record(tmp_path / "Q.zarr")
    about, settings = record.about["features"], record.settings["features"]
    assert (about["name"], about["stage"]) == ("fcmae", "encoder_0")
    assert about["path"].startswith(str(weights))
    assert len(settings["fingerprint"]) == 16
    assert settings["fingerprint"] == about["fingerprint"]
    assert "path" not in settings
    assert all(set(np.unique(mask)) <= {0, 1} for mask in masks_of(tmp_path / "Q.zarr").values())


def test_local_thresholds(plate, tmp_path):
    plate, _ = plate
    flags = ["--channels", "nuclei", "--method", "threshold", "--window", "41", "--offset", "0.1"]
    main(["masks", "--plate", str(plate), "--output", str(tmp_path / "Q.zarr"), *flags])
    for name, mask in masks_of(tmp_path / "Q.zarr").items():
        image = zarr.open_array(plate / name / "0", mode="r")[0, 1, 0].astype(np.float64)
        expected = image > threshold_local(image, 41, method="gaussian") + 0.1 * image.std()
        assert np.mean(mask[0, 0, 0] == expected) > 0.9999  # but for pixels at the threshold
    record = read_plate_record(tmp_path / "Q.zarr")
    assert (record.settings["method"], record.settings["threshold"]["window"]) == ("threshold", 41)
    assert "features" not in record.settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--channels", "mito"], "mito"),
        (["--channels", "nuclei"], "fewer than a tile; make --tile 96 or smaller"),
        (
            ["--channels", "nuclei", "--tile", "66"],
            "with --features intensity it must be a multiple of 4",
        ),
        ([*TILED, "--anchor", "B/0/0"], "B/0/0"),
        ([*TILED, "--features", "nowhere"], "no whole checkpoint"),
        ([*TILED, "--stage", "encoder_0"], "intensity has no stages"),
        ([*TILED, "--features", "WEIGHTS", "--stage", "encoder_7"], "encoder_7: the network has no such stage"),
        ([*TILED, "--features", "WEIGHTS", "--tile", "68"], "not divisible"),
        ([*TILED, "--window", "31"], "--window: belongs to --method threshold"),
        (["--channels", "nuclei", "--method", "threshold", "--seed", "3"], "--seed: belongs to --method nsc"),
        (["--channels", "nuclei", "--method", "threshold", "--window", "30"], "window: is 30; must be odd"),
    ],
)
def test_mistakes_before_anything_is_written(plate, weights, tmp_path, flags, message):
    flags = [str(weights) if flag == "WEIGHTS" else flag for flag in flags]
    with pytest.raises(UserError, match=message):
        main(["masks", "--plate", str(plate[0]), "--output", str(tmp_path / "Q.zarr"), *flags])
    assert not (tmp_path / "Q.zarr").exists()
