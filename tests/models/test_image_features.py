"""Features of single-channel images from encoders of every kind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.models.features import IMAGENET_MEAN, IMAGENET_STD, image_features, image_scaling
from vsjax.models.registry import build_model

ENCODERS = {
    "fcmae": {"dims": (4, 8), "encoder_blocks": (1, 1), "in_channels": 2, "depthwise": "conv"},
    "fnet3d": {"depth": 1, "mult_chan": 2, "in_stack_depth": 2},
    "vit": {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16},
}
GRIDS = {"fcmae": (8, 12, 4), "fnet3d": (32, 48, 2), "vit": (8, 12, 8)}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.gamma(2.0, 30.0, (2, 32, 48)) + np.array([100, 900])[:, None, None], jnp.float32)


def encoder(name, random_variables):
    model = build_model(name, **ENCODERS[name])
    variables = random_variables(model, *model.example(model.divisor[1:]))
    if "batch_stats" in variables:  # variances are positive
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return model, variables


@pytest.mark.parametrize("name", ENCODERS)
def test_features_do_not_depend_on_units_unless_a_scaling_is_given(name, images, random_variables):
    model, variables = encoder(name, random_variables)
    features = jax.jit(partial(image_features, model))
    found = features(variables, images)
    assert found.shape == (2, *GRIDS[name])
    assert np.asarray(found.std(axis=(1, 2))).max() > 1e-3
    np.testing.assert_allclose(features(variables, 3 * images + 50), found, rtol=1e-3, atol=1e-3)
    given = features(variables, images, scaling=image_scaling(model, images))
    np.testing.assert_allclose(given, found, rtol=1e-5, atol=1e-5)
    other = features(variables, images, scaling=(images.min(), jnp.ptp(images)))
    assert np.abs(other - found).max() > 1e-3
    constant = features(variables, jnp.full_like(images, 7.0))
    assert np.isfinite(constant).all()


def test_a_convolutional_encoder_sees_the_image_in_every_channel_and_slice(images, random_variables):
    """Standardised by NumPy; the stage is the encoder's last but one, its mean over slices where it has several."""
    model, variables = encoder("fnet3d", random_variables)
    array = np.asarray(images, np.float64)
    scaled = (array - array.mean(axis=(1, 2), keepdims=True)) / array.std(axis=(1, 2), keepdims=True)
    x = np.repeat(scaled[:, None, :, :, None], 2, axis=1).astype(np.float32)
    keep = jax.jit(partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"]))
    stages = keep(variables, x)[1]["intermediates"]
    for stage, name in (("", "encoder_0"), ("bottleneck", "bottleneck")):
        expected = np.asarray(stages[name]["__call__"][0]).mean(axis=1)
        found = jax.jit(partial(image_features, model, stage=stage))(variables, images)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_vit_sees_a_grey_photograph(images, random_variables):
    """Percentiles 1 and 99.9 become black and white, then ImageNet's normalisation; blocks' tokens lie on the grid."""
    model, variables = encoder("vit", random_variables)
    array = np.asarray(images, np.float64)
    low, high = (np.percentile(array, q, axis=(1, 2), keepdims=True) for q in (1, 99.9))
    grey = np.clip((array - low) / (high - low), 0, 1)[:, None, ..., None]
    x = ((grey - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).astype(np.float32)
    keys, _ = jax.jit(model.apply)(variables, x)
    found = jax.jit(partial(image_features, model))(variables, images)
    np.testing.assert_allclose(found, keys[:, 1:].reshape(2, 8, 12, 8), rtol=1e-3, atol=1e-3)
    block = jax.jit(partial(image_features, model, stage="block_0"))(variables, images)
    assert block.shape == found.shape


@pytest.mark.parametrize(
    ("name", "stage", "plane", "says"),
    [
        ("vit", "block_7", (32, 48), r"stage block_7: the network has no such stage; its stages are block_0"),
        ("fcmae", "", (32, 44), r"images of \(32, 44\) pixels are not divisible by \(8, 8\), the stride of FCMAE"),
        ("palette", "", (32, 32), r"Palette gives no features of an image, since it needs more"),
    ],
)
def test_what_gives_no_features(name, stage, plane, says, random_variables):
    model = build_model(name, **ENCODERS.get(name, {}))
    variables = None if name == "palette" else encoder(name, random_variables)[1]
    with pytest.raises(UserError, match=says):
        image_features(model, variables, jnp.zeros((1, *plane)), stage)
