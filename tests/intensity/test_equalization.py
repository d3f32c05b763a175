"""Equalised channels against scikit-image on the volume itself; everything else of the plate as it was."""

import json
import re
import subprocess
import sys

import numpy as np
import ome_zarr_models
import pytest
import zarr
from skimage.exposure import equalize_adapthist

from vsjax.errors import UserError
from vsjax.intensity.equalization import Equalization, equalize
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.derived import Listener, make_plate
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate
from vsjax.steps import make_step

KERNEL = (3, 8, 8)
SETTINGS = Equalization(channels=("nuclei",), kernel=KERNEL)


def stack(seed, dtype=np.uint16, times=2):
    """[T, 2, 5, 24, 28]: dim and bright regions."""
    rng = np.random.default_rng(seed)
    return (rng.gamma(2, 100, (times, 2, 5, 24, 28)) * np.linspace(0.2, 1, 28)).astype(dtype)


@pytest.fixture
def plate(tmp_path, zarr_plate):
    """Two positions with scale, further attributes, a colour, and statistics."""

    def make(version="0.4", dtype=np.uint16):
        images = {"A/1/0": stack(0, dtype), "B/2/1": stack(1, dtype)}
        scale = [60.0, 1.0, 2.0, 0.5, 0.25]
        url = zarr_plate(tmp_path / "p.zarr", images, version=version, channels=["BF", "nuclei"], scale=scale, note="x")
        image = zarr.open_group(url / "A/1/0", mode="a")
        ome = image.attrs.get("ome", dict(image.attrs))
        ome["omero"]["channels"][1]["color"] = "0000FF"
        ome["omero"]["channels"][1]["window"] = {"min": 0, "max": 9000, "start": 10, "end": 800}
        image.attrs.update({"ome": ome} if version == "0.5" else {"omero": ome["omero"]})
        write_statistics(open_plate(url), grid=1)
        return url, images

    return make


@pytest.mark.parametrize(("version", "dtype"), [("0.4", np.uint16), ("0.5", np.float32), ("0.5", np.int32)])
def test_new_channels_are_scikit_images_and_the_rest_survives(plate, tmp_path, version, dtype):
    url, images = plate(version, dtype)
    make_plate(SETTINGS, url, tmp_path / "q.zarr")
    made = open_plate(tmp_path / "q.zarr")
    assert made.ngff_version == version
    assert list(made.position_names) == list(images)
    for name, image in images.items():
        position = made[name]
        assert position.channel_names == ("BF", "nuclei", "nuclei_clahe")
        assert position.scale == (60.0, 1.0, 2.0, 0.5, 0.25)
        assert position.attributes["note"] == "x"
        found = position.array().read().result()
        assert found.dtype == (np.float64 if dtype == np.int32 else np.float32)
        np.testing.assert_array_equal(found[:, :2], image)
        for time in range(2):
            volume = image[time, 1].astype(float)
            volume = (volume - volume.min()) / np.ptp(volume)
            expected = equalize_adapthist(volume, kernel_size=KERNEL)
            np.testing.assert_allclose(found[time, 2], expected, atol=1e-6)
    display = made["A/1/0"].attributes.get("ome", made["A/1/0"].attributes)["omero"]["channels"]
    assert display[1]["color"] == "0000FF"
    assert display[1]["window"]["end"] == 800
    ome_zarr_models.open_ome_zarr(zarr.open_group(tmp_path / "q.zarr", mode="r"))


def test_statistics_are_of_the_new_plate(plate, tmp_path):
    url, _ = plate()
    make_plate(SETTINGS, url, tmp_path / "q.zarr")
    with pytest.raises(UserError, match="python -m vsjax"):
        open_plate(tmp_path / "q.zarr")["A/1/0"].statistics("nuclei", "dataset")
    write_statistics(open_plate(tmp_path / "q.zarr"), grid=1)
    statistics = open_plate(tmp_path / "q.zarr")["B/2/1"].statistics("nuclei_clahe", "fov")
    assert (statistics["min"], statistics["max"]) == (0, 1)
    old = open_plate(url)["B/2/1"].statistics("nuclei", "fov")
    assert open_plate(tmp_path / "q.zarr")["B/2/1"].statistics("nuclei", "fov") == old


def test_units_do_not_matter_but_settings_do():
    volume = stack(0)[0, 1].astype(np.float32)
    plain = equalize(volume, KERNEL)
    np.testing.assert_allclose(equalize(3 * volume + 7, KERNEL), plain, atol=1e-3)
    assert np.abs(equalize(volume, (5, 24, 24)) - plain).max() > 0.1
    strong = equalize(volume, KERNEL, 0.2)
    assert np.abs(strong - plain).max() > 0.1
    brighter = [image[..., 14:].mean() / image[..., :14].mean() for image in (volume, strong)]
    assert brighter[0] > 1.9
    assert brighter[1] < 1.5


def test_one_image_without_a_channel_axis(tmp_path, zarr_image):
    volume = stack(3, times=1)[0, 1]
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=3)
    zarr_image(group, volume, "zyx", "0.5", channels=["nuclei"], scale=[2.0, 0.5, 0.5])
    make_plate(SETTINGS, tmp_path / "i.zarr", tmp_path / "q.zarr")
    made = open_plate(tmp_path / "q.zarr")["0"]
    assert made.axes == "czyx"
    np.testing.assert_array_equal(made.array()[0, 0].read().result(), volume)
    np.testing.assert_array_equal(made.array()[0, 1].read().result(), equalize(volume, KERNEL))


def test_interrupted_the_same_command_continues(plate, tmp_path):
    url, _ = plate()
    totals = []

    class StopAfter(Listener):
        def __init__(self, slices):
            self.rest = slices

        def started(self, positions, finished_before, slices):
            totals.append((positions, finished_before, slices))

        def slices_done(self, slices):
            self.rest -= slices
            if self.rest == 0:
                raise KeyboardInterrupt

    output = tmp_path / "q.zarr"
    with pytest.raises(KeyboardInterrupt):
        make_plate(SETTINGS, url, output, listener=StopAfter(20))  # the last volume is computed, not kept
    with pytest.raises(UserError, match=r"q\.zarr: was started with kernel = \(3, 8, 8\)"):
        make_plate(Equalization(channels=("nuclei",), kernel=(5, 8, 8)), url, output)
    make_plate(SETTINGS, url, output, listener=StopAfter(-1))
    assert totals == [(2, 0, 20), (2, 1, 5)]  # the first position was finished, and a time point of the second
    make_plate(SETTINGS, url, tmp_path / "whole.zarr")
    for name in ("A/1/0", "B/2/1"):
        pixels = [open_plate(path)[name].array().read().result() for path in (output, tmp_path / "whole.zarr")]
        np.testing.assert_array_equal(*pixels)
    with pytest.raises(UserError, match=r"q\.zarr: is complete already.*--overwrite"):
        make_plate(SETTINGS, url, output)
    make_plate(SETTINGS, url, output, overwrite=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda volume: np.full_like(volume, 3), r"B/2/1, time point 1: channel 'nuclei' holds the value 3 only"),
        (lambda volume: np.where(volume > volume.mean(), np.nan, volume), r"B/2/1, .* holds NaN or infinite values"),
    ],
)
def test_volumes_that_cannot_be_equalised(plate, tmp_path, spoil, message):
    url, images = plate("0.5", np.float32)
    volume = open_plate(url)["B/2/1"].array()[1, 1]
    volume.write(spoil(images["B/2/1"][1, 1])).result()
    with pytest.raises(UserError, match=message):
        make_plate(SETTINGS, url, tmp_path / "q.zarr")


def test_what_is_refused_before_anything_is_written(plate, tmp_path):
    url, _ = plate()
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for settings, output, message in (
        (Equalization(channels=("DAPI",)), "q.zarr", "channel 'DAPI' does not exist"),
        (Equalization(channels=("nuclei",), kernel=(5, 2**15, 2**15)), "q.zarr", "does not suit a volume"),
        (SETTINGS, "p.zarr", "lie in one another"),
        (SETTINGS, "p.zarr/A/q.zarr", "lie in one another"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            make_plate(settings, url, tmp_path / output, overwrite=True)
    create_plate(tmp_path / "other.zarr", position_names=["A/1/0"])
    with pytest.raises(UserError, match=r"other\.zarr: exists already"):
        make_plate(SETTINGS, url, tmp_path / "other.zarr")
    assert [path for path in before if not path.is_file()] == []
    assert not (tmp_path / "q.zarr").exists()
    make_plate(SETTINGS, url, tmp_path / "q.zarr")
    with pytest.raises(UserError, match="'nuclei_clahe' is there already"):
        make_plate(SETTINGS, tmp_path / "q.zarr", tmp_path / "r.zarr")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("channels", (), "is (); "),
        ("channels", ("a", "a"), "name each once"),
        ("channels", (3,), "is 3; it must be a valid string"),
        ("kernel", (0, 8, 8), "is 0; it must be greater than or equal to 1"),
        ("kernel", (8, 8), "is missing"),
        ("kernel", "all", "is 'all'"),
        ("clip_limit", 0.0, "is 0.0; it must be greater than 0"),
        ("clip_limit", float("nan"), "is nan"),
        ("clip_limit", True, "is True"),
        ("kernal", 3, "there is no such field; there are channels, kernel, clip_limit"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    with pytest.raises(UserError, match=rf"^config\.steps: equalize\.{field}.*{re.escape(message)}"):
        make_step({"name": "equalize", "channels": ("nuclei",), field: value})


def test_the_program(plate, tmp_path):
    url, _ = plate()
    command = [sys.executable, "-m", "vsjax.preprocess", "equalize", "--plate", str(url), "--channels", "nuclei"]
    more = ["--kernel", "3", "8", "8", "--output", str(tmp_path / "q.zarr")]
    run = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    assert f"python -m vsjax.preprocess --plate {tmp_path / 'q.zarr'}" in run.stdout
    assert "20/20" in run.stderr
    again = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    attributes = json.loads((tmp_path / "q.zarr" / ".zattrs").read_text())
    assert attributes["vsjax"]["settings"]["kernel"] == [3, 8, 8]
