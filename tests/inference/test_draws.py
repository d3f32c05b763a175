"""A family whose prediction is drawn: noise belongs to the voxel, so tiles, z windows, batches, rotations and devices
change nothing; draws and seeds do."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from vsjax.errors import UserError
from vsjax.evaluation.comparison import evaluate
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings, change_sampler
from vsjax.models.registry import build_model
from vsjax.plates.reader import open_plate
from vsjax.runtime.checkpoint import save_variables
from vsjax.tasks.context import Context

ROOT = Path(__file__).resolve().parents[2]
ZERO, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)


@pytest.fixture(scope="module")
def run(describe_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "run"
    model = build_model("one_convolution")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8, 1)))
    description = describe_weights({"name": "one_convolution"}, ["Phase"], ["nuclei"])
    config = {**description.config, "task": {"name": "drawn"}}
    save_variables(path, variables, description.model_copy(update={"config": config}))
    return path


@pytest.fixture(scope="module")
def diffusion(describe_weights, tmp_path_factory):
    """Random weights of a small diffusion, which draws in two steps with new noise."""
    path = tmp_path_factory.mktemp("diffusion") / "run"
    settings = {"name": "one_denoiser", "in_channels": 1, "out_channels": 1, "in_stack_depth": 3}
    model = build_model(**settings)
    variables = model.init(jax.random.key(0), *(jnp.zeros(x.shape) for x in model.example((8, 8))))
    variables = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), variables)
    description = describe_weights(settings, ["Phase"], ["nuclei"])
    sampler = {"method": "ddpm", "steps": 2}
    task = {"name": "diffusion", "process": {"parameterization": "v"}, "sampler": sampler}
    save_variables(path, variables, description.model_copy(update={"config": {**description.config, "task": task}}))
    return path


@pytest.fixture(params=["run", "diffusion"])
def drawing(request):
    """A run of each family that draws."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def stack():
    return np.random.default_rng(0).normal(size=(5, 96, 80, 1)).astype(np.float32)


def predict(run, stack, name="A/1/0", time=0, **settings):
    return load(run).predict_stack(stack, ZERO, ONE, PredictionSettings(**settings), name=name, time=time)


def test_a_large_field_in_tiles_and_windows_is_the_whole(drawing, stack):
    whole = predict(drawing, stack)
    for settings in (
        {"tile": (32, 40)},
        {"tile": (28, 32), "batch_size": 5},
        {"batch_size": 1},
        {"margin": 9, "tile": (48, 36)},
    ):
        np.testing.assert_allclose(predict(drawing, stack, **settings), whole, atol=2e-6)
    assert np.abs(predict(drawing, stack, z_step=3) - whole).max() > 0.1  # of other windows: the test can fail


def test_what_the_sampler_does_decides_how_far_it_looks(run, stack):
    """Eight steps look eight pixels far: tiles get wider margins, and still give the whole."""
    longer = change_sampler(load(run).sampler, {"steps": 8})
    whole = predict(run, stack, sampler=longer)
    assert np.abs(whole - predict(run, stack)).max() > 0.1
    np.testing.assert_allclose(predict(run, stack, sampler=longer, tile=(40, 40)), whole, atol=5e-6)


def test_rotated_windows_see_the_same_noise(run, stack):
    whole = predict(run, stack, tta="mean")
    np.testing.assert_allclose(predict(run, stack, tta="mean", tile=(32, 40)), whole, atol=2e-6)


def test_a_draw_follows_from_seed_position_and_time_point(drawing, stack):
    small = stack[:3, :16, :16]
    first = predict(drawing, small)
    np.testing.assert_array_equal(predict(drawing, small), first)
    for other in ({"seed": 1}, {"name": "A/1/1"}, {"time": 1}):
        assert np.abs(predict(drawing, small, **other) - first).max() > 0.1


def test_mean_and_spread_are_those_of_the_draws(run, stack):
    small = stack[:3, :16, :16]
    draws = predict(run, small, draws=4, keep="draws").astype(np.float64)
    assert draws.shape == (4, *small.shape)
    np.testing.assert_array_equal(draws[0], predict(run, small))
    found = predict(run, small, draws=4)
    np.testing.assert_allclose(found[..., 0], draws.mean(axis=0)[..., 0], atol=1e-6)
    np.testing.assert_allclose(found[..., 1], draws.std(axis=0, ddof=1)[..., 0], atol=1e-6)
    volume = load(run).predict(small[..., 0], PredictionSettings(draws=4, keep="draws"), axes="ZYX")
    assert volume.shape == (4, 3, 16, 16, 1)


def test_the_noise_is_white_and_of_the_voxel():
    key = jax.random.key(3)
    large = Context(key=key, origin=jnp.array([[-1, -40, 5]])).normal((1, 4, 96, 96, 2))
    part = Context(key=key, origin=jnp.array([[1, -17, 38]])).normal((1, 2, 64, 33, 2))
    np.testing.assert_array_equal(part[0], large[0, 2:4, 23:87, 33:66])
    values = np.asarray(large, np.float64)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    spectrum = np.abs(np.fft.fft2(values[0, 0, :, :, 0])) ** 2 / 96**2
    assert abs(spectrum[0].mean() - 1) < 0.5  # no seams between blocks, which would lift a row of it
    assert len(np.unique(values)) > 0.99 * values.size
    turned = Context(key=key, origin=jnp.array([[0, 3, 4]]), turns=1).normal((1, 1, 8, 6, 1))
    plain = Context(key=key, origin=jnp.array([[0, 3, 4]])).normal((1, 1, 6, 8, 1))
    np.testing.assert_array_equal(turned, np.rot90(plain, 1, (-3, -2)))


def test_a_plate_holds_mean_and_spread_and_the_sampler_decides_whether_it_is_resumed(run, simulated_plate, tmp_path):
    predictor, output = load(run), tmp_path / "S.zarr"
    settings = PredictionSettings(draws=2, sampler=change_sampler(predictor.sampler, {"strength": 1}))
    predict_plate(predictor, simulated_plate, output, positions=["A/1/0"], source_channels=["BF"], settings=settings)
    position = open_plate(output)["A/1/0"]
    assert position.channel_names == ("nuclei_prediction", "nuclei_spread")
    assert position.array()[0, 1].read().result().min() > 0
    found = evaluate(output, simulated_plate, tmp_path / "r", levels=["uncertainty"]).summary["uncertainty"]
    assert found[0]["correlation_n"] == found[0]["crps_n"] == 1  # evaluation finds the spread
    other = replace(settings, sampler=change_sampler(predictor.sampler, {"strength": 2}))
    with pytest.raises(UserError, match=r"started with sampler.* = .*1"):
        predict_plate(predictor, simulated_plate, output, positions=["A/1/0"], source_channels=["BF"], settings=other)
    with pytest.raises(UserError, match=r"sampler\.method: there is no such field; there are steps, strength"):
        change_sampler(predictor.sampler, {"method": "ddim"})
    with pytest.raises(UserError, match=r"sampler\.steps: is 'many'; it must be a valid integer"):
        change_sampler(predictor.sampler, {"steps": "many"})


DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, toys
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings

predictor, stack = load(sys.argv[2]), np.load(sys.argv[3])
for space in (1, 2, 4):
    settings = PredictionSettings(space=space, tta=sys.argv[5])
    found = predictor.predict_stack(stack, np.zeros(1), np.ones(1), settings, name="A/1/0")
    np.testing.assert_allclose(found, np.load(sys.argv[4]), atol=5e-6)
"""


@pytest.mark.parametrize(("family", "tta"), [("run", "none"), ("run", "mean"), ("diffusion", "none")])
def test_one_two_and_four_devices_draw_the_same(request, stack, tmp_path, family, tta):
    drawing = request.getfixturevalue(family)
    np.save(tmp_path / "stack.npy", stack)
    np.save(tmp_path / "whole.npy", predict(drawing, stack, tta=tta))
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    paths = [Path(toys.__file__).parent, drawing, tmp_path / "stack.npy", tmp_path / "whole.npy", tta]
    subprocess.run([sys.executable, "-c", DEVICES, *paths], env=env, cwd=ROOT, check=True, timeout=300)
