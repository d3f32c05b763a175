"""The level of uncertainty: plates with spreads of known truth, in every unit, and those without."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from skimage.io import imread
from small_plates import CHANNELS, POSITIONS, SHAPE, write

from vsjax.errors import UserError
from vsjax.evaluation import requirements, uncertainty
from vsjax.evaluation.comparison import evaluate
from vsjax.evaluation.pairing import Pair, pair_plates
from vsjax.plates.reader import open_plate
from vsjax.uncertainty import crps_gaussian

LOCATION, SCALE = 900.0, 250.0
NAMES = ("nuclei_prediction", "membrane_prediction", "nuclei_spread", "membrane_spread")
CLAIMED = {"nuclei": 1.0, "membrane": 0.5}  # times the true spread
# Of a spread s uniform between .1 and 1 and an error s |z|: E|z| sd(s) / sd(s |z|).
CORRELATION = np.sqrt(2 / np.pi * 0.0675 / (0.37 - 2 / np.pi * 0.55**2))


@pytest.fixture(scope="module")
def stacks():
    """Measured stacks [T, C, Z, Y, X] and predictions in the same units, which are right of nuclei and too sure of
    membrane by a factor of two."""
    random = np.random.default_rng(0)
    target, prediction = {}, {}
    for name in POSITIONS:
        mean = random.normal(LOCATION, 2 * SCALE, (2, 2, *SHAPE[2:]))
        spread = random.uniform(0.1, 1, mean.shape) * SCALE
        truth = mean + spread * random.normal(size=mean.shape)
        target[name] = np.concatenate([random.normal(size=(2, 1, *SHAPE[2:])), truth], axis=1).astype(np.float32)
        claimed = spread * np.array(list(CLAIMED.values()))[:, None, None, None]
        prediction[name] = np.concatenate([mean, claimed], axis=1).astype(np.float32)
    return target, prediction


def made_by_predict(units):
    stored = {channel: {"location": LOCATION, "scale": SCALE} for channel in CLAIMED}
    checkpoint = {"path": "runs/a", "step": 1, "fingerprint": "f"}
    about = {"checkpoint": checkpoint, "source_channels": ["Phase"], "units": units, "normalization": stored}
    record = {"vsjax_version": "0", "step": "predict", "input": "P.zarr", "settings": {}, "finished": True}
    return {"vsjax": {**record, "about": {"prediction": about}, "finished_time_points": 2}}


@pytest.fixture(scope="module")
def plates(stacks, tmp_path_factory):
    """The target, and the prediction as trained and in the stains' own units."""
    folder, (target, prediction) = tmp_path_factory.mktemp("plates"), stacks
    normalized = {name: stack / SCALE for name, stack in prediction.items()}
    for stack in normalized.values():
        stack[:, :2] -= LOCATION / SCALE
    return (
        write(folder / "P.zarr", target, CHANNELS),
        write(folder / "N.zarr", normalized, NAMES, made_by_predict("normalized")),
        write(folder / "T.zarr", prediction, NAMES, made_by_predict("target")),
    )


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_right_and_a_too_sure_prediction(tmp_path, plates, stacks):
    """What is read from the report, against what was put into the plates."""
    done = evaluate(plates[1], plates[0], tmp_path / "r")
    assert done.summary.keys() == {"pixel", "uncertainty"}
    assert done.summary["uncertainty"][0]["units"] == "normalized"
    summary = {entry["channel"]: entry for entry in done.summary["uncertainty"]}
    for channel, claimed in CLAIMED.items():
        for share in (50, 90):
            want = 2 * norm.cdf(claimed * norm.ppf(0.5 + share / 200)) - 1
            assert summary[channel][f"coverage_{share}_mean"] == pytest.approx(want, abs=0.02)
        assert summary[channel]["correlation_mean"] == pytest.approx(CORRELATION, abs=0.03)
    gains = [summary[channel]["information_gain_mean"] for channel in CLAIMED]
    assert gains[0] - gains[1] == pytest.approx(1.5 * np.log2(np.e) - 1, abs=0.1)
    target, prediction = stacks
    for row in table(tmp_path / "r" / "uncertainty.csv"):
        name, time, index = row["position"], int(row["time"]), CHANNELS.index(row["channel"])
        mean, spread = (prediction[name][time, index + first].astype(np.float64) / SCALE for first in (-1, 1))
        truth = target[name][time, index] / SCALE
        assert float(row["crps"]) == pytest.approx(crps_gaussian(mean, spread, truth).mean(), rel=1e-4)
        correlation = np.corrcoef(spread.ravel(), np.abs(truth - mean).ravel())[0, 1]
        assert float(row["correlation"]) == pytest.approx(correlation, rel=1e-4)


def test_the_curve_of_a_channel_is_that_of_all_its_pixels(tmp_path, plates, stacks):
    evaluate(plates[2], plates[0], tmp_path / "r", levels=["uncertainty"])
    curves = uncertainty.pooled_curves(tmp_path / "r" / "uncertainty_objects.csv")
    target, prediction = stacks
    for channel, (spread, error) in curves.items():
        index = CHANNELS.index(channel)
        np.testing.assert_allclose(CLAIMED[channel] * np.array(error) / spread, 1, atol=0.15)
        errors = [target[name][:, index] - prediction[name][:, index - 1] for name in POSITIONS]
        assert np.mean(np.square(error)) == pytest.approx(np.mean(np.square(errors)), rel=0.01)
        assert spread == sorted(spread)
        assert len(spread) == 20
    pictures = {path.name for path in (tmp_path / "r").glob("*.png")}
    assert pictures == {"uncertainty.png", "uncertainty_calibration.png"}
    assert all(imread(tmp_path / "r" / name).std() > 0 for name in pictures)
    content = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert content["objects"]["uncertainty"]["columns"].keys() == {"bin", "spread", "error", "pixels"}


def test_the_spread_follows_the_units(plates):
    """Whatever the plate is in: shares and bits stay, CRPS is in the row's units."""
    target, *predictions = map(open_plate, plates)

    def scores(prediction, units):
        for job in pair_plates(prediction, target, units=units, positions=["A/1/0"]):
            pair = replace(job.read(), beside=requirements.read_beside(job, {"spread": "_spread"}))
            yield uncertainty.measure(pair).values

    for prediction in predictions:
        kinds = (scores(prediction, units) for units in ("target", "normalized", "standardized"))
        for raw, normal, standard in zip(*kinds, strict=True):
            assert raw["crps"] == pytest.approx(SCALE * normal["crps"], rel=1e-3)
            for name in ("coverage_50", "coverage_90", "information_gain", "correlation"):
                assert raw[name] == pytest.approx(normal[name], abs=3e-3), name
            assert standard["crps"] == pytest.approx(normal["crps"] / 2, rel=0.1)  # the mean's sd is two scales
            assert standard["coverage_90"] == pytest.approx(raw["coverage_90"], abs=0.05)


def test_a_plate_without_a_spread_of_every_channel_is_not_judged_by_it(tmp_path, plates, stacks):
    prediction = {name: stack[:, :3] for name, stack in stacks[1].items()}
    lacking = write(tmp_path / "S.zarr", prediction, NAMES[:3])
    with pytest.raises(UserError, match=r"--levels uncertainty: requires spread; predict with --draws") as caught:
        evaluate(lacking, plates[0], tmp_path / "s", levels=["uncertainty"])
    assert "\n" not in str(caught.value)
    both = open_plate(lacking), open_plate(plates[0])
    assert requirements.find_spread(pair_plates(*both)) is None
    assert requirements.find_spread(pair_plates(*both, channels=["nuclei"])) == "_spread"


def measure(spread=None, target=None):
    random = np.random.default_rng(0)
    mean = random.normal(size=(2, 16, 16)).astype(np.float32)
    spread = np.full_like(mean, 0.5) if spread is None else spread
    target = mean + 0.5 * random.normal(size=mean.shape).astype(np.float32) if target is None else target
    beside = {"spread": spread}
    return uncertainty.measure(Pair("A/1/0", 0, "nuclei", mean, target, (1.0, 1.0, 1.0), "target", beside=beside))


def test_what_is_undefined_is_nan_with_a_note():
    found = measure()
    assert [name for name, value in found.values.items() if np.isnan(value)] == ["correlation"]
    assert found.notes == ["spread or error is constant: no correlation"]
    assert len(found.objects) == 1
    same = measure(spread=np.zeros((2, 16, 16), np.float32))  # all draws were the same
    assert same.values["coverage_90"] == 0
    assert np.isfinite(same.values["information_gain"])
    broken = np.full((2, 16, 16), 0.5, np.float32)
    broken[0, 0, :3] = np.nan
    for found, note in (
        (measure(spread=broken), "spread has 3 non-finite pixels"),
        (measure(target=broken), "target has 3 non-finite pixels"),
        (measure(target=np.ones((2, 16, 16), np.float32)), "target is constant: no score"),
    ):
        assert np.isnan(list(found.values.values())).all()
        assert found.values.keys() == uncertainty.METRICS.keys()
        assert found.notes == [note]
        assert not found.objects
