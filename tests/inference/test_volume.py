"""What a user's code may hand over: arrays, statistics and descriptions that mean nothing are refused in one line."""

import dataclasses
import warnings

import numpy as np
import pytest
from local_network import STATISTICS, save_checkpoint

import vsjax
from vsjax.errors import UserError
from vsjax.inference.predictor import Predictor
from vsjax.inference.settings import PredictionSettings
from vsjax.inference.tiling import plan_tiles
from vsjax.runtime.checkpoint import load_checkpoint

GOOD = np.random.default_rng(0).normal(100, 5, (3, 8, 8))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    save_checkpoint(path)
    return vsjax.load(path)


def refused(message, call, *arguments, **options):
    """One line, and no warning beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message) as caught:
            call(*arguments, **options)
    assert "\n" not in str(caught.value)


def spoilt(value):
    volume = GOOD.copy()
    volume[1, 2, 3] = value
    return volume


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((3, 0, 8)), r"volume: its shape \(3, 0, 8\) holds no pixels"),
        ([], r"volume: its shape \(0,\) holds no pixels"),
        (GOOD.astype(str), "volume: its pixels are <U"),
        (GOOD.astype(object), "volume: its pixels are object"),
        (GOOD > 100, "volume: its pixels are bool"),
        (GOOD + 1j, "volume: its pixels are complex128"),
        (GOOD.astype("M8[s]"), "volume: its pixels are datetime64"),
        ([[1, 2], [3]], "volume: is no array"),
        (None, "volume: its pixels are object"),
        ("runs/a", "volume: its pixels are <U"),
        (np.float32(3), "does not tell which axis"),
        (spoilt(1e300), "'Phase': 1 of 192 pixels of the image are NaN or infinite .float32"),
        (spoilt(-np.inf), "'Phase': 1 of 192 pixels of the image"),
        (GOOD[:2], "2 slices .* at least 3"),
    ],
)
def test_arrays(predictor, volume, message):
    refused(message, predictor.predict, volume)


def test_an_array_beyond_the_memory_is_refused_before_it_is_read(predictor):
    refused("volume: its shape .* would take .* GiB", predictor.predict, np.broadcast_to(GOOD[0, 0, 0], (2**15,) * 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": 3}, "axes: is 3; give text"),
        ({"axes": ("Z", "Y", "X")}, "axes: is .'Z', 'Y', 'X'.; give text"),
        ({"axes": "ZZYX"}, "axes='ZZYX' does not describe"),
        ({"axes": "Z" * 10_000}, "axes='ZZZ.* does not describe"),
        ({"settings": "mean"}, "settings: is a str; give PredictionSettings"),
        ({"settings": {}}, "settings: is a dict; give PredictionSettings"),
        ({"statistics": 3}, "statistics: is 3; give a mapping"),
        ({"statistics": {"Phase": 3}}, r"statistics\['Phase'\]: is 3; give a mapping"),
        ({"statistics": {f"c{n}": {} for n in range(4000)}}, "'Phase' is missing; there are c0, .* c3999"),
        ({"statistics": {"Phase": {"mean": "90", "std": 30.0}}}, r"\['Phase'\]\['mean'\]: is '90'; give a number"),
        ({"statistics": {"Phase": {"mean": 90.0, "std": True}}}, r"\['Phase'\]\['std'\]: is True; give a number"),
        ({"statistics": {"Phase": {"mean": None, "std": 30.0}}}, r"\['Phase'\]\['mean'\]: is None; give a number"),
        ({"statistics": {"Phase": {"mean": 90.0}}}, "lack 'mean' or 'std'"),
        ({"statistics": {"Phase": {"mean": np.nan, "std": 30.0}}}, "not finite"),
        ({"statistics": {"Phase": {"mean": 90.0, "std": 1e308}}}, "beyond what float32 holds"),
        ({"statistics": {"Phase": {"mean": 10**400, "std": 1}}}, "beyond what float32 holds"),
        ({"statistics": {"Phase": {"mean": 0.0, "std": 1e-300}}}, "is constant and cannot be normalised"),
        (
            {"statistics": {"Phase": {"mean": 0.0, "std": 2e-30}}},
            "pixels of the normalised image are NaN or infinite",
        ),
    ],
)
def test_options(predictor, options, message):
    volume = GOOD if "std" not in str(options) else GOOD * 1e9
    refused(message, predictor.predict, volume, **options)


def test_statistics_of_numpy_are_taken(predictor):
    given = {name: np.float32(value) for name, value in STATISTICS.items()}
    expected = predictor.predict(GOOD, statistics={"Phase": STATISTICS})
    np.testing.assert_array_equal(predictor.predict(GOOD, statistics={"Phase": given}), expected)


def described(predictor, **changes):
    checkpoint = load_checkpoint(predictor.checkpoint["path"].split("/checkpoints/")[0])
    return dataclasses.replace(checkpoint, description=checkpoint.description.model_copy(update=changes))


def test_a_config_without_a_compute_type_computes_in_float32(predictor):
    """As its document says where a field is left out."""
    config = {name: section for name, section in described(predictor).description.config.items() if name != "dtype"}
    found = Predictor(described(predictor, config=config)).predict(GOOD)
    np.testing.assert_array_equal(found, predictor.predict(GOOD))


@pytest.mark.parametrize("role", ["source", "target"])
def test_a_description_of_other_channels(predictor, role):
    channels = dict(load_checkpoint(predictor.checkpoint["path"].split("/checkpoints/")[0]).description.channels)
    channels[role] = channels[role].model_copy(update={"channels": ("a", "b", "c")})
    message = rf"description.channels.{role} names 3 channels .a, b, c. but the network has 1"
    refused(message, Predictor, described(predictor, channels=channels))


def test_infinite_after_denormalising(predictor):
    statistics = {"nuclei": dict.fromkeys(STATISTICS, 3e38)}
    large = Predictor(described(predictor, statistics=statistics))
    settings = PredictionSettings(units="target")
    refused("'nuclei': .* of the prediction in units 'target' are NaN or infinite", large.predict, GOOD, settings)


def test_paths(tmp_path, predictor):
    for path in (None, 3, "", b"", []):
        refused(r"path: is .*; give the folder of a run", vsjax.load, path)
    refused("checkpoint: is a NoneType", Predictor, None)
    for which in ("newest", 3, [], {}):
        refused("which=", vsjax.load, predictor.checkpoint["path"].split("/checkpoints/")[0], which)


def test_a_batch_without_regard_to_the_memory_becomes_the_usual_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "run")
    predictor = vsjax.load(tmp_path / "run")
    shape = (200, 16, 16, 1)
    size = predictor.compiled.program((150, 3, 16, 16, 1)).memory_analysis()
    enough = size.temp_size_in_bytes + size.argument_size_in_bytes + size.output_size_in_bytes
    settings = PredictionSettings(batch_size=4096, tile=(16, 16))
    assert predictor.resolve(shape, settings).batch_size == 198
    monkeypatch.setattr("vsjax.inference.compiled._free_bytes", lambda device, space: enough)
    monkeypatch.setattr("vsjax.inference.predictor.BATCH_PIXELS", 16 * 16 * 50)
    chosen = predictor.resolve(shape, settings)
    assert chosen.batch_size == 50
    assert predictor.resolve(shape, chosen) == chosen


def test_tiles_without_number():
    with pytest.raises(UserError, match="would be 268435456 in a plane of"):
        plan_tiles((65536, 65536), (4, 4), (4, 4), 0, 0)
