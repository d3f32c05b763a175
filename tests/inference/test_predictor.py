"""The predictor on arrays, against the network applied by hand."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from local_network import STATISTICS, save_checkpoint

import vsjax
from vsjax.errors import UserError
from vsjax.inference.predictor import Predictor, load
from vsjax.inference.settings import PredictionSettings
from vsjax.intensity.statistics import compute_statistics
from vsjax.runtime.checkpoint import load_checkpoint, save_variables


@pytest.fixture
def random():
    return np.random.default_rng(0)


def by_hand(module, variables, volume, in_depth):
    """Slide over [Z, Y, X, C] and average in float64, one window at a time."""
    total, counts = 0.0, np.zeros((len(volume), 1, 1, 1))
    apply = jax.jit(module.apply)
    for start in range(len(volume) - in_depth + 1):
        prediction = np.asarray(apply(variables, volume[None, start : start + in_depth]), np.float64)
        placed = np.zeros((len(volume), *prediction.shape[2:]))
        placed[start : start + in_depth] = prediction[0]
        total = total + placed
        counts[start : start + in_depth] += 1
    return total / counts


def test_unext2_is_normalised_slid_and_averaged(tmp_path, random):
    settings = {"in_stack_depth": 5, "backbone": "convnextv2_atto", "decoder_conv_blocks": 1, "head_expansion_ratio": 1}
    module, variables = save_checkpoint(tmp_path / "run", name="unext2", target=("nuclei", "membrane"), **settings)
    volume = random.normal(1000, 50, size=(7, 64, 32)).astype(np.float32)
    prediction = load(tmp_path / "run").predict(volume)
    normalized = ((volume - volume.mean()) / volume.std())[..., None]
    np.testing.assert_allclose(prediction, by_hand(module, variables, normalized, 5), atol=2e-4)
    assert prediction.dtype == np.float32


def test_load_is_at_the_top(tmp_path, random):
    save_checkpoint(tmp_path / "run")
    volume = random.normal(size=(4, 8, 8))
    assert np.array_equal(vsjax.load(tmp_path / "run").predict(volume), load(tmp_path / "run").predict(volume))


def test_axes_come_back_as_they_were_given(tmp_path, random):
    """One source channel in, two targets out, in every arrangement of the axes."""
    save_checkpoint(tmp_path / "run", target=("nuclei", "membrane"))
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(4, 8, 12)).astype(np.float32)
    expected = predictor.predict(volume)
    assert expected.shape == (4, 8, 12, 2)
    assert not np.allclose(expected[..., 0], expected[..., 1])
    assert np.array_equal(predictor.predict(volume[..., None]), expected)
    assert np.array_equal(predictor.predict(volume[None]), np.moveaxis(expected, -1, 0))
    assert np.array_equal(predictor.predict(volume[None, None]), np.moveaxis(expected, -1, 0)[None])
    assert np.array_equal(predictor.predict(volume.T, axes="XYZ"), expected.transpose(2, 1, 0, 3))
    two = predictor.predict(np.stack([volume, volume[::-1]]), axes="tzyx", statistics={"Phase": {"mean": 1, "std": 3}})
    assert np.array_equal(two[1], predictor.predict(volume[::-1], statistics={"Phase": {"mean": 1, "std": 3}}))


def test_two_source_channels_are_normalised_each_by_its_own(tmp_path, random):
    module, variables = save_checkpoint(tmp_path / "run", source=("Phase", "Retardance"), scope="dataset")
    volume = random.normal(size=(3, 8, 8, 2)).astype(np.float32)
    statistics = {"Retardance": {"mean": 2.0, "std": 4.0}, "Phase": {"mean": -1.0, "std": 0.5}}
    normalized = (volume - np.array([-1, 2], np.float32)) / np.array([0.5, 4], np.float32)
    expected = module.apply(variables, normalized[None], train=False)[0]
    np.testing.assert_allclose(load(tmp_path / "run").predict(volume, statistics=statistics), expected, atol=1e-6)


def test_statistics_are_those_that_preprocess_writes_for_a_field_of_view(tmp_path, random):
    """From 128 pixels on a grid of 32, so that an array and the plate that it comes from give the same prediction."""
    save_checkpoint(tmp_path / "run")
    predictor = load(tmp_path / "run")
    volume = random.gamma(2, 100, size=(4, 132, 140)).astype(np.float32)
    statistics = {"Phase": compute_statistics(volume, grid=32)}
    assert np.array_equal(predictor.predict(volume), predictor.predict(volume, statistics=statistics))
    assert not np.array_equal(predictor.predict(volume), predictor.predict(volume, statistics={"Phase": STATISTICS}))


def test_time_point_statistics_are_of_each_time_point(tmp_path, random):
    save_checkpoint(tmp_path / "run", scope="timepoint")
    predictor = load(tmp_path / "run")
    series = random.normal(size=(2, 4, 8, 8)) * np.array([1, 10])[:, None, None, None]
    prediction = predictor.predict(series, axes="TZYX")
    for time in range(2):
        assert np.array_equal(prediction[time], predictor.predict(series[time]))


@pytest.mark.parametrize("statistic", ["mean_std", "median_iqr"])
def test_patch_normalisation_is_of_each_window(tmp_path, random, statistic):
    module, variables = save_checkpoint(tmp_path / "run", scope="patch", statistic=statistic)
    volume = (random.normal(size=(5, 8, 12, 1)) * np.arange(1, 6)[:, None, None, None]).astype(np.float32)
    total, counts = np.zeros_like(volume), np.zeros((5, 1, 1, 1))
    for start in range(3):
        window = volume[start : start + 3]
        low, middle, high = np.percentile(window, [25, 50, 75])
        location, scale = (window.mean(), window.std()) if statistic == "mean_std" else (middle, high - low)
        total[start : start + 3] += np.asarray(module.apply(variables, (window[None] - location) / scale))[0]
        counts[start : start + 3] += 1
    np.testing.assert_allclose(load(tmp_path / "run").predict(volume), total / counts, atol=1e-5)


def test_thirteen_slices_in_one_out(tmp_path, random):
    """The middle slice of a stack of exactly the depth is the network's own; the others exist too."""
    module, variables = save_checkpoint(tmp_path / "run", in_stack_depth=13, out_stack_depth=1, scope="none")
    volume = random.normal(size=(13, 8, 8)).astype(np.float32)
    prediction = load(tmp_path / "run").predict(volume)
    assert prediction.shape == (13, 8, 8, 1)
    np.testing.assert_allclose(prediction[6], module.apply(variables, volume[None, ..., None])[0, 0], atol=1e-6)
    first = np.concatenate([np.repeat(volume[:1], 6, axis=0), volume[:7]])
    np.testing.assert_allclose(prediction[0], module.apply(variables, first[None, ..., None])[0, 0], atol=1e-6)


def test_single_slices(tmp_path, random):
    save_checkpoint(tmp_path / "run", in_stack_depth=1, out_stack_depth=1, scope="none")
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(6, 8, 8)).astype(np.float32)
    prediction = predictor.predict(volume)
    assert np.array_equal(prediction[3], predictor.predict(volume[3]))
    np.testing.assert_allclose(prediction, predictor.predict(volume, PredictionSettings(batch_size=1)), atol=1e-6)


def test_target_units_are_the_training_targets(tmp_path, random):
    save_checkpoint(tmp_path / "run")
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(4, 8, 8))
    normalized, target = predictor.predict(volume), predictor.predict(volume, PredictionSettings(units="target"))
    np.testing.assert_allclose(target, normalized * STATISTICS["iqr"] + STATISTICS["median"], rtol=1e-6)


def test_tiles_of_a_local_network_are_the_whole(tmp_path, random):
    save_checkpoint(tmp_path / "run", radius=3)
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(4, 61, 75)).astype(np.float32)
    whole = predictor.predict(volume)
    np.testing.assert_allclose(predictor.predict(volume, PredictionSettings(tile=(24, 32))), whole, atol=1e-6)
    together = predictor.predict(volume, PredictionSettings(tile=(24, 32), batch_size=7))  # three tiles, two windows
    np.testing.assert_allclose(together, whole, atol=1e-6)


def test_padding_is_by_reflection_and_cropped(tmp_path, random):
    module, variables = save_checkpoint(tmp_path / "run", divisor=(1, 8, 8), scope="none")
    volume = random.normal(size=(3, 13, 16, 1)).astype(np.float32)
    padded = np.pad(volume, ((0, 0), (1, 2), (0, 0), (0, 0)), mode="reflect")
    expected = np.asarray(module.apply(variables, padded[None]))[0, :, 1:14]
    np.testing.assert_allclose(load(tmp_path / "run").predict(volume), expected, atol=1e-6)


@pytest.mark.parametrize(("tta", "combine"), [("mean", np.mean), ("median", np.median)])
def test_augmentation_combines_the_predictions_of_rotated_volumes(tmp_path, random, tta, combine):
    """On a field of view that is neither square nor divisible; divisors that differ in Y and X."""
    save_checkpoint(tmp_path / "run", scope="none", divisor=(1, 4, 2), radius=1)
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(3, 12, 20)).astype(np.float32)
    four = [np.rot90(predictor.predict(np.rot90(volume, k, (1, 2))), -k, (1, 2)) for k in range(4)]
    np.testing.assert_allclose(predictor.predict(volume, PredictionSettings(tta=tta)), combine(four, axis=0), atol=1e-6)
    assert predictor.predict(volume[:, :11, :17], PredictionSettings(tta=tta)).shape == (3, 11, 17, 1)


def test_the_experiment_says_whether_to_augment(tmp_path, random):
    save_checkpoint(tmp_path / "run", scope="none", divisor=(1, 4, 2), radius=1)
    checkpoint = load_checkpoint(tmp_path / "run")
    volume = random.normal(size=(3, 12, 20)).astype(np.float32)
    plain = Predictor(checkpoint)
    config = {**checkpoint.description.config, "predict": {"tta": "mean"}}
    description = checkpoint.description.model_copy(update={"config": config})
    asked = Predictor(replace(checkpoint, description=description))
    np.testing.assert_array_equal(asked.predict(volume), plain.predict(volume, PredictionSettings(tta="mean")))
    np.testing.assert_array_equal(asked.predict(volume, PredictionSettings(tta="none")), plain.predict(volume))
    assert not np.allclose(asked.predict(volume), plain.predict(volume))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet2d", {"num_blocks": 1, "num_filters": (4, 4), "residual": True}),
        ("fnet3d", {"depth": 1, "mult_chan": 4, "in_stack_depth": 2}),
    ],
)
def test_networks_of_finite_radius_are_tiled_exactly(tmp_path, random, name, settings):
    module, _ = save_checkpoint(tmp_path / "run", name=name, scope="none", **settings)
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(module.in_stack_depth, 70, 64)).astype(np.float32)
    side = 2 * module.receptive_radius + 4
    assert side < 40
    tiled = predictor.predict(volume, PredictionSettings(tile=(side, side), batch_size=1))
    np.testing.assert_allclose(tiled, predictor.predict(volume), atol=1e-5)


def test_memory_decides_the_tile(tmp_path, random, monkeypatch):
    """With little memory the field of view is cut until it fits, and the result stays that of the whole."""
    save_checkpoint(tmp_path / "run", radius=3)
    volume = random.normal(size=(4, 128, 96)).astype(np.float32)
    whole = load(tmp_path / "run").predict(volume)
    seen = []
    predictor = load(tmp_path / "run")
    monkeypatch.setattr("vsjax.inference.compiled._free_bytes", lambda device, space: 300_000)
    predictor.compiled = _Recorder(predictor.compiled, seen)
    np.testing.assert_allclose(predictor.predict(volume, PredictionSettings(batch_size=1)), whole, atol=1e-6)
    assert len(set(seen)) == 1
    assert seen[0][2] * seen[0][3] < 128 * 96


@pytest.mark.parametrize(
    ("volume", "options", "message"),
    [
        (np.eye(8)[None] * np.ones((2, 1, 1)), {}, "2 slices .* at least 3"),
        (np.full((3, 8, 8), 7.0), {}, "Phase.*constant"),
        (np.full((3, 8, 8), np.nan), {}, "'Phase': 192 of 192 pixels .* NaN"),
        (np.zeros((3, 8, 8)), {"statistics": {"DAPI": {}}}, "'Phase' is missing; there are DAPI"),
        (np.zeros((3, 8, 8)), {"axes": "ZY"}, "does not describe a volume of shape"),
        (np.zeros((3, 3, 8, 8)), {}, "does not tell which axis"),
        (np.zeros((2, 5, 3, 8, 8)), {}, "has 5 channels but the model takes 1: Phase"),
        (
            np.zeros((3, 8, 8)),
            {"settings": PredictionSettings(tta="product")},
            "settings.tta: is 'product'; it must",
        ),
        (
            np.zeros((3, 8, 8)),
            {"settings": PredictionSettings(units="photons")},
            "settings.units: is 'photons'",
        ),
        (np.zeros((3, 8, 8)), {"settings": PredictionSettings(z_step=0)}, "settings.z_step: is 0; "),
        (np.zeros((3, 8, 8)), {"settings": PredictionSettings(draws=4)}, "draws is 4.*the same prediction each time"),
    ],
)
def test_bad_input_gets_one_clear_line(tmp_path, volume, options, message):
    save_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "run").predict(volume, **options)
    assert "\n" not in str(error.value)


def test_weights_of_another_model(tmp_path):
    save_checkpoint(tmp_path / "run")
    _, variables = save_checkpoint(tmp_path / "other", radius=3)
    save_variables(tmp_path / "mixed", variables, load_checkpoint(tmp_path / "run").description)
    with pytest.raises(UserError, match=r"mixed.*kernel is \(7, 7, 3, 3\) where \(5, 5, 3, 3\) is expected"):
        load(tmp_path / "mixed")


def test_fingerprint_tells_weights_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_checkpoint(tmp_path / name, seed=seed)
    a, b, c = (load(tmp_path / name).checkpoint["fingerprint"] for name in "abc")
    assert a == b != c


class _Recorder:
    """A network that remembers the shapes that it is applied to."""

    def __init__(self, network, seen):
        self._network, self._seen = network, seen

    def __getattr__(self, name):
        return getattr(self._network, name)

    def __call__(self, windows, *others):
        self._seen.append(windows.shape)
        return self._network(windows, *others)


def test_predictions_do_not_depend_on_the_batch(tmp_path, random):
    save_checkpoint(tmp_path / "run", in_stack_depth=5, out_stack_depth=3)
    predictor = load(tmp_path / "run")
    volume = random.normal(size=(11, 8, 8))
    expected = predictor.predict(volume, PredictionSettings(batch_size=1))
    for batch_size in (2, 3, 16):
        np.testing.assert_allclose(
            predictor.predict(volume, PredictionSettings(batch_size=batch_size)), expected, atol=1e-6
        )
