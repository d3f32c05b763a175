"""The diffusion as a task and as a family: what it learns from, and what it draws with."""

import math
import shutil

import jax
import numpy as np
import pytest
from toys import diffusion_config, small_config

from configs.common import base_config
from vsjax.data.loading import open_data
from vsjax.errors import UserError
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings, change_sampler
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.runtime.checkpoint import save_variables
from vsjax.runtime.experiment import check_config
from vsjax.tasks.registry import make_task, resolve
from vsjax.training.overview import describe_run

STEPS = 4


def batch_of(config):
    return open_data(config, 1).first_batch()


@pytest.fixture
def config(simulated_plate):
    return diffusion_config(simulated_plate, STEPS)


@pytest.mark.parametrize(
    ("parameterization", "norm", "expected"),
    [
        ("eps", "l1", lambda target: math.sqrt(2 / math.pi)),
        ("eps", "l2", lambda target: 1.0),
        ("x0", "l1", lambda target: np.abs(target).mean()),
        ("v", "l2", lambda target: 1.0),  # of a target of mean square 1, at any noise level
    ],
)
def test_a_network_that_says_nothing_has_the_loss_of_what_it_should_say(config, parameterization, norm, expected):
    """The last layer begins at zero."""
    config.task.update(norm=norm)
    config.task.process.parameterization = parameterization
    config.augment.update(rotation_probability=0.0, noise_probability=0.0)
    batch = batch_of(config)
    middle = batch["target"][:, 1:2].astype(np.float32)  # the slice that is predicted
    location, scale = middle.mean((1, 2, 3)), middle.std((1, 2, 3))  # each sample's own
    batch |= {"target_location": location, "target_scale": scale}
    target = (middle - location[:, None, None, None]) / scale[:, None, None, None]
    task = make_task(resolve(check_config(config)))
    state = task.init(jax.random.key(0), batch)
    _, metrics = task.step(state, batch, jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(expected(target), rel=0.05)
    losses = task.evaluate(state, batch, jax.random.key(2))["loss"]
    assert float(losses.mean()) == pytest.approx(expected(target), rel=0.05)


def test_limits_hold_all_of_the_normalised_training_stains(simulated_plate, tmp_path):
    """Also the bright pixels between those of which the plate has its statistics; and nothing far beyond."""
    plate = shutil.copytree(simulated_plate, tmp_path / "P.zarr")
    write_statistics(open_plate(plate), grid=8)
    config = diffusion_config(plate, STEPS)
    data = open_data(config, 1)
    ((low, high),) = data.limits("target")
    for name in ("A/1/1", "A/1/2"):  # A/1/0 validates
        position = open_plate(plate)[name]
        statistics = position.statistics("nuclei", "fov")
        stain = (position.array()[0, 1].read().result() - statistics["mean"]) / statistics["std"]
        assert low < stain.min() < stain.max() < high
        assert high - low < 4 * np.ptp(stain)
    resolved = resolve(check_config(config), 1, lambda: data.limits("target"))
    assert resolved.task.process.limits == ((low, high),)
    config.roles.target.normalization.scope = "patch"
    assert open_data(config, 1).limits("target") == ()


def saved(path, config, seed=0):
    """A checkpoint of random weights, whose last layers say something."""
    data = open_data(config, 1)
    config = resolve(check_config(config), 1, lambda: data.limits("target"))
    task = make_task(config)
    variables = task.init(jax.random.key(seed), data.first_batch()).variables
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    save_variables(path, jax.tree.unflatten(structure, moved), describe_run(config, data))
    return path


def regression_config(plate):
    config = small_config(base_config("one_convolution"), plate, STEPS, (-1, 1, 1))
    config.task.loss.ms_dssim = 0.0  # patches are too small for its scales
    return config


@pytest.fixture(scope="module")
def run(simulated_plate, tmp_path_factory):
    config = diffusion_config(simulated_plate, STEPS)
    config.task.process.parameterization = "v"
    return saved(tmp_path_factory.mktemp("diffusion") / "run", config)


def settings(predictor, **sampler):
    return PredictionSettings(sampler=change_sampler(predictor.sampler, {"steps": 3, **sampler}))


def test_a_draw_keeps_within_its_limits(config, tmp_path):
    """An untrained network that says noise makes images a hundred times as large of it."""
    volume = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    for clamp, limits in ((True, ((-0.5, 2.0),)), (False, ((-0.5, 2.0),))):
        config.task.process.update(limits=limits, clamp=clamp)
        predictor = load(saved(tmp_path / f"{clamp}", config))
        drawn = predictor.predict(volume, settings(predictor))
        assert (drawn.min() >= -0.5 and drawn.max() <= 2) == clamp
        np.testing.assert_array_equal(drawn, predictor.predict(volume, settings(predictor)))


def test_the_class_is_that_of_the_well(run, simulated_plate, tmp_path):
    """`row` is A in the whole plate: the plate is predicted as with this label, and not as with the other one."""
    predictor = load(run)
    predict_plate(predictor, simulated_plate, tmp_path / "S.zarr", positions=["A/1/0"], settings=settings(predictor))
    stained = open_plate(tmp_path / "S.zarr")["A/1/0"].array()[0, 0].read().result()
    for label, same in (("A", True), ("B", False)):
        chosen = settings(predictor, label=label)
        predict_plate(predictor, simulated_plate, tmp_path / f"{label}.zarr", positions=["A/1/0"], settings=chosen)
        drawn = open_plate(tmp_path / f"{label}.zarr")["A/1/0"].array()[0, 0].read().result()
        assert np.array_equal(drawn, stained) == same
    with pytest.raises(UserError, match="label=C: is no class; the model knows A, B"):
        predictor.predict(np.zeros((3, 32, 32)) + np.arange(32), settings(predictor, label="C"))


def test_class_guidance_goes_beyond_the_class(run):
    """At weight 0 it is the draw without a class, at 1 that of the class."""
    predictor = load(run)
    volume = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    none = predictor.predict(volume, settings(predictor))
    zero, one, two = (
        predictor.predict(volume, settings(predictor, label="A", class_weight=w)) for w in (0.0, 1.0, 2.0)
    )
    np.testing.assert_allclose(zero, none, atol=1e-5)
    assert 0 < np.abs(one - none).max() < np.abs(two - none).max()


def test_a_start_from_a_regression_is_its_stain_in_the_units_of_the_draw(run, simulated_plate, tmp_path):
    """From a process that has hardly begun, what is drawn is the regression's stain. Its own targets were normalised in
    another way."""
    regression = regression_config(simulated_plate)
    regression.roles.target.normalization.update(scope="dataset", statistic="median_iqr")
    saved(tmp_path / "regression", regression, seed=3)
    volume = open_plate(simulated_plate)["A/1/0"].array()[0, 0, 1:4].read().result()  # one window
    first = load(tmp_path / "regression").predict(volume, PredictionSettings(units="target"))
    second = load(run, start=tmp_path / "regression")
    sampler = settings(second, start_at=0.0005).sampler
    drawn = second.predict(volume, PredictionSettings(units="target", sampler=sampler))
    np.testing.assert_allclose(drawn[1], first[1], atol=0.02 * np.ptp(first))
    assert second.checkpoint["fingerprint"] != load(run).checkpoint["fingerprint"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.roles.source.normalization.update(statistic="median_iqr"), "normalised by median_iqr of fov"),
        (lambda c: c.data.update(patch=(1, 32, 32)), "sees 1 slices"),
        (lambda c: c.roles.target.update(channels=("membrane",)), "does not predict nuclei"),
    ],
)
def test_a_regression_that_does_not_fit_is_refused(run, simulated_plate, tmp_path, change, words):
    regression = regression_config(simulated_plate)
    change(regression)
    saved(tmp_path / "regression", regression)
    with pytest.raises(UserError, match=words):
        load(run, start=tmp_path / "regression")
    with pytest.raises(UserError, match="draws nothing, so it takes no --start"):
        load(tmp_path / "regression", start=run)


def test_masks_guide_by_what_they_find(run):
    """Each kind gives another draw than none."""
    predictor = load(run)
    volume = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    changes = [{}, {"masks": "threshold", "rounds": 2}]
    changes += [{"masks": "nsc", "clustering": {"tile": 32, "least_pixels": 4}}]
    drawn = [predictor.predict(volume, settings(predictor, **change)) for change in changes]
    assert all(np.isfinite(image).all() for image in drawn)
    for one in range(len(drawn)):
        for two in range(one):
            assert np.abs(drawn[one] - drawn[two]).max() > 1e-3


def test_given_masks_are_labels_of_the_plate(run, simulated_plate, tmp_path):
    """Of other structures another stain is drawn; what is no mask, or too few, is refused."""
    predictor = load(run)
    given = settings(predictor, masks="given", mask_at=0.2)
    drawn = {}
    for masks in (["nuclei"], ["cells"]):
        output = tmp_path / f"{masks[0]}.zarr"
        predict_plate(predictor, simulated_plate, output, positions=["A/1/0"], settings=given, masks=masks)
        drawn[masks[0]] = open_plate(output)["A/1/0"].array()[0, 0].read().result()
    assert np.abs(drawn["nuclei"] - drawn["cells"]).max() > 0.01
    for masks, chosen, words in (
        ([], given, "names 0 labels where 1 are needed"),
        (["nuclei"], settings(predictor), "names 1 labels where 0 are needed"),
        (["organelles"], given, "label 'organelles' does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            predict_plate(predictor, simulated_plate, tmp_path / "no.zarr", settings=chosen, masks=masks)


def test_eps_cannot_be_learnt_where_nothing_is_left(config):
    config.task.process.schedule.zero_terminal_snr = True
    with pytest.raises(UserError, match="parameterization: is eps"):
        make_task(resolve(check_config(config)))
    config.task.process.parameterization = "v"
    make_task(resolve(check_config(config)))
    config.task.process.limits = ((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(UserError, match="limits: has 2 pairs for 1 stains"):
        make_task(resolve(check_config(config)))
