"""Stage two on stage one: both in one checkpoint, predicted in one go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys  # registers `one_convolution`

from vsjax.errors import UserError
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.models.registry import build_model
from vsjax.runtime.checkpoint import save_variables
from vsjax.tasks.registry import make_family

assert toys.OneConvolution.receptive_radius == 1
SETTINGS = ({"in_channels": 1, "out_channels": 2}, {"in_channels": 3, "out_channels": 1})


@pytest.fixture
def stages():
    """The two networks with their variables."""
    networks = [build_model("one_convolution", **settings) for settings in SETTINGS]
    shapes = [jnp.zeros((1, 3, 8, 8, settings["in_channels"])) for settings in SETTINGS]
    keys = jax.random.split(jax.random.key(0))
    return [(n, n.init(key, shape)) for n, key, shape in zip(networks, keys, shapes, strict=True)]


def save(path, stages, describe_weights):
    description = describe_weights({"name": "one_convolution", **SETTINGS[1]}, ["Phase"], ["lipids"])
    first = {**description.config, "model": {"name": "one_convolution", **SETTINGS[0]}}
    description = description.model_copy(update={"config": {**description.config, "first": first}})
    save_variables(path, {"first": stages[0][1], "second": stages[1][1]}, description)
    return description.config


def test_the_second_sees_the_source_and_the_firsts_stains(tmp_path, stages, describe_weights):
    config = save(tmp_path / "run", stages, describe_weights)
    assert make_family(config).receptive_radius == 2
    volume = np.random.default_rng(0).normal(size=(3, 16, 12)).astype(np.float32)
    normalised = ((volume - volume.mean()) / volume.std())[None, ..., None]
    (first, one), (second, two) = stages
    stains = first.apply(one, normalised)
    expected = second.apply(two, np.concatenate([normalised, stains], axis=-1))[0]
    predictor = load(tmp_path / "run")
    np.testing.assert_allclose(predictor.predict(volume), expected, atol=1e-5)
    tiled = predictor.predict(volume, PredictionSettings(tile=(12, 12)))
    np.testing.assert_allclose(tiled, expected, atol=1e-5)


def test_weights_of_the_wrong_stage_are_refused(tmp_path, stages, describe_weights):
    save(tmp_path / "run", stages[::-1], describe_weights)
    with pytest.raises(UserError, match=r"the weights are not those of the model"):
        load(tmp_path / "run")


def test_stages_that_do_not_fit_are_refused(tmp_path, stages, describe_weights):
    config = save(tmp_path / "run", stages, describe_weights)
    one_stain = {**config["first"], "model": {**config["first"]["model"], "out_channels": 1}}
    with pytest.raises(UserError, match=r"takes 3 slices of 3 channels, but the stage before .* leaves 3 of 2"):
        make_family({**config, "first": one_stain})
