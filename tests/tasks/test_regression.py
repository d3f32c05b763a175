"""One training step of the regression task against what it should do to the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs import unext2
from configs.common import base_config, channel_role
from vsjax.data.augmentation import AugmentConfig
from vsjax.data.roles import ChannelRole
from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization
from vsjax.models.network import Network
from vsjax.tasks.inputs import Inputs
from vsjax.tasks.registry import make_family, make_task, resolve
from vsjax.tasks.regression import LossSettings, RegressionTask

RAW = Normalization(scope="none", statistic="mean_std")
ROLES = {
    "source": ChannelRole(channels=("a", "b"), normalization=RAW),
    "target": ChannelRole(channels=("c",), normalization=RAW),
}
L2 = LossSettings(l1=0.0, l2=1.0, ms_dssim=0.0)


class Linear(Network):
    """One 1x1 convolution with a counter of its calls in training, as batch norm has."""

    in_channels: int = 2
    in_stack_depth: int = 3

    @nn.compact
    def __call__(self, x, train):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        if train:
            calls.value += 1
        return nn.Dense(1)(x)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(4, 3, 8, 8, 2)).astype(np.float32)
    target = (source @ np.array([[2.0], [-1.0]], np.float32)) + 0.5
    ones = {f"{role}_scale": np.ones((4, channels), np.float32) for role, channels in (("source", 2), ("target", 1))}
    zeros = {
        f"{role}_location": np.zeros((4, channels), np.float32) for role, channels in (("source", 2), ("target", 1))
    }
    return {"source": source, "target": target, **ones, **zeros}


def linear_task(**changes):
    inputs = Inputs(ROLES, AugmentConfig(), (3, 8, 8), 3)
    return RegressionTask(model=Linear(), inputs=inputs, optimizer=optax.sgd(0.1), loss=L2, channels=("c",), **changes)


def test_step_is_gradient_descent_on_the_loss():
    task, batch = linear_task(average_decay=0.9), make_batch()
    state = task.init(jax.random.key(0), batch)
    after, metrics = jax.jit(task.step)(state, batch, jax.random.key(1))
    x = batch["source"].reshape(-1, 2).astype(np.float64)
    y = batch["target"].reshape(-1).astype(np.float64)
    kernel, bias = (np.asarray(state.variables["params"]["Dense_0"][name], np.float64) for name in ("kernel", "bias"))
    residual = x @ kernel[:, 0] + bias - y
    np.testing.assert_allclose(metrics["loss"], np.mean(residual**2), rtol=1e-5)
    gradient = 2 * x.T @ residual / len(y)
    moved = kernel[:, 0] - 0.1 * gradient
    np.testing.assert_allclose(after.variables["params"]["Dense_0"]["kernel"][:, 0], moved, rtol=1e-5)
    norm = np.sqrt(np.sum(gradient**2) + (2 * residual.mean()) ** 2)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    assert after.step == 1
    assert after.variables["batch_stats"]["calls"] == 1
    # The first average remembers a tenth of the start: min(0.9, (1 + 0) / (10 + 0)).
    average = 0.1 * kernel[:, 0] + 0.9 * moved
    np.testing.assert_allclose(after.average["params"]["Dense_0"]["kernel"][:, 0], average, rtol=1e-5)


def test_training_finds_the_mapping_and_validation_says_so():
    task, batch = linear_task(), make_batch()
    state = task.init(jax.random.key(0), batch)
    step = jax.jit(task.step)
    for index in range(200):
        state, _ = step(state, batch, jax.random.key(index))
    found = task.evaluate(state, make_batch(1), jax.random.key(0))
    np.testing.assert_allclose(found["pearson"], 1.0, atol=1e-4)
    np.testing.assert_allclose(found["mae"], 0.0, atol=1e-3)
    np.testing.assert_allclose(state.variables["params"]["Dense_0"]["kernel"][:, 0], [2.0, -1.0], atol=1e-3)


def test_target_is_the_middle_of_the_window():
    inputs = Inputs(ROLES, AugmentConfig(), (5, 4, 4), 1)
    volume = np.broadcast_to(np.arange(5.0, dtype=np.float32)[:, None, None, None], (2, 5, 4, 4, 1))
    batch = {"source": volume, "target": volume}
    batch |= {f"{r}_{n}": np.full((2, 1), v, np.float32) for r in batch for n, v in (("location", 0), ("scale", 1))}
    for images in (inputs.evaluation(batch), inputs.training(jax.random.key(0), batch)):
        np.testing.assert_array_equal(images["source"], volume)
        np.testing.assert_array_equal(images["target"], np.full((2, 1, 4, 4, 1), 2.0))


def test_normalisation_comes_before_the_network():
    roles = ROLES | {
        "target": ChannelRole(channels=("c",), normalization=Normalization(scope="patch", statistic="mean_std"))
    }
    inputs = Inputs(roles, AugmentConfig(), (3, 8, 8), 3)
    batch = make_batch()
    batch["source_location"] += 7.0
    batch["source_scale"] *= 4.0
    images = inputs.evaluation(batch)
    source, target = images["source"], images["target"]
    np.testing.assert_allclose(source, (batch["source"] - 7) / 4, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.mean(target, axis=(1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(target, axis=(1, 2, 3, 4)), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("palette", r"\"regression\"; set config.task.name=\"diffusion\""),
        ("vit", r"\"regression\"; it only gives features"),
    ],
)
def test_networks_of_other_tasks_are_refused(name, says):
    """Where one is trained, and where a checkpoint claims that it predicts."""
    config = base_config(name, "regression")
    config.roles.source, config.roles.target = channel_role("BF", "red", "green"), channel_role("nuclei")
    config.data.update(plates=("cells.zarr",), patch=(1, 64, 64))
    with pytest.raises(UserError, match=rf"config.model.name='{name}' is no network for {says}"):
        make_task(resolve(config))
    with pytest.raises(UserError, match=rf"config.model.name='{name}' is no network for {says}"):
        make_family({"model": {"name": name}, "task": {"name": "regression"}})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task.name", "magic", r"config\.task\.name: 'magic' does not exist; choose one of regression"),
        ("data.patch", (5, 100, 96), r"Y=100 is not divisible by 32"),
        ("data.patch", (7, 96, 96), r"7.*5|5.*7"),
        ("model.backbone", "resnet", r"backbone.*convnextv2_atto"),
        ("task.loss.scales", 5, r"too small for an MS-SSIM of 5 scales"),
        ("init.load", "stem", r"config\.init\.load='stem' does not exist"),
        ("optim.schedule", "quadratic", r"schedule: is 'quadratic'; it must be 'cosine'"),
        ("augment.rotation", "twice", r"augment\.rotation"),
        ("roles.source.normalization.scope", "world", r"world"),
    ],
)
def test_configs_that_cannot_work_are_refused(field, value, message):
    config = unext2.get_config("debug")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message) as error:
        make_task(resolve(config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "patch"),
    [
        ("fcmae", {"dims": (8, 16, 32, 64), "encoder_blocks": (1, 1, 1, 1)}, (5, 32, 32)),
        ("unet25d", {"num_filters": (2, 4), "num_blocks": 1, "out_stack_depth": 1}, (5, 16, 16)),
        ("unet2d", {"num_filters": (2, 4), "num_blocks": 1}, (1, 16, 16)),
        ("dodnet", {"num_filters": (2, 4), "num_blocks": 1}, (3, 16, 16)),
        ("fnet3d", {"depth": 1, "mult_chan": 2}, (4, 16, 16)),
    ],
)
def test_every_network_takes_a_training_step(name, settings, patch):
    config = base_config(name, **settings)
    config.data.patch, config.roles.target = patch, channel_role("nuclei")
    config.task.loss.update(l1=0.0, l2=1.0, ms_dssim=0.0)
    config.optim.update(schedule="constant", warmup_steps=0, learning_rate=1e-2)
    task = make_task(resolve(config))
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(2, *patch, 1)).astype(np.float32)
    batch = {"source": volume, "target": 2 * volume}
    batch |= {f"{r}_{n}": np.full((2, 1), v, np.float32) for r in batch for n, v in (("location", 0), ("scale", 1))}
    state = task.init(jax.random.key(0), batch)
    step = jax.jit(task.step)
    losses = []
    for index in range(12):
        state, metrics = step(state, batch, jax.random.key(index))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_model_follows_the_data():
    config = unext2.get_config("debug")
    config.roles.source.channels, config.roles.target.channels = ("a", "b"), ("c",)
    settings = resolve(config).model
    assert (settings["in_channels"], settings["out_channels"]) == (2, 1)
    assert (settings["in_stack_depth"], settings["out_stack_depth"]) == (5, 5)
    assert "in_channels" not in config.model  # the caller's config stays as it was


def test_the_loss_suits_the_patch_of_validation_too():
    config = unext2.get_config("debug")
    config.update_from_flattened_dict({"data.val_patch": (5, 32, 32), "task.loss.scales": 3})
    with pytest.raises(UserError, match="32 x 32 pixels is too small for an MS-SSIM of 3 scales"):
        make_task(resolve(config))
