"""DoDNet's dynamic head: against loops, and what tells the stains apart."""

import jax
import numpy as np
import pytest

from vsjax.models.dodnet import dynamic_head
from vsjax.models.registry import build_model

SMALL = {"num_blocks": 1, "num_filters": (3, 5), "in_channels": 2, "out_channels": 3, "in_stack_depth": 2}


@pytest.fixture(scope="module")
def trained():
    """A network, variables of which none is zero, and two images."""
    random, model = np.random.default_rng(0), build_model("dodnet", **SMALL)
    x = random.normal(size=(2, 2, 4, 32, 2)).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    drawn = jax.tree.map(lambda leaf: random.uniform(0.1, 0.6, leaf.shape).astype(np.float32), shapes)
    drawn["params"] = jax.tree.map(lambda leaf: leaf * random.choice([-1, 1], leaf.shape), drawn["params"])
    return jax.jit(model.apply), drawn, x


def with_controller(variables, change):
    kernel = change(variables["params"]["controller"]["kernel"].copy())
    controller = {**variables["params"]["controller"], "kernel": kernel}
    return {**variables, "params": {**variables["params"], "controller": controller}}


def test_the_head_is_three_small_matrices_of_each_image_and_stain():
    random = np.random.default_rng(0)
    features, parameters = random.normal(size=(2, 3, 4, 8)), random.normal(size=(2, 5, 153))
    found = dynamic_head(features, parameters)
    assert found.shape == (2, 3, 4, 5)
    for image, stain, y, x in np.ndindex(2, 5, 3, 4):
        left, value = list(parameters[image, stain]), features[image, y, x]
        for inputs, outputs in ((8, 8), (8, 8), (8, 1)):
            kernel = np.array([[left.pop(0) for _ in range(outputs)] for _ in range(inputs)])
            value = value @ kernel + np.array([left.pop(0) for _ in range(outputs)])
            value = np.maximum(value, 0) if outputs > 1 else value
        assert not left
        np.testing.assert_allclose(found[image, y, x, stain], value[0], rtol=1e-4, atol=1e-4)


def test_the_controller_says_153_numbers_of_the_image_and_the_stain():
    """Beside the U-Net's own: eight features of its first width, and a controller of its last width and the stains."""
    x = np.zeros((1, 1, 16, 16, 1), np.float32)

    def count(name, **settings):
        model = build_model(name, out_channels=5, **settings)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]
        return params, sum(leaf.size for leaf in jax.tree.leaves(params))

    params, total = count("dodnet")
    plain, all_of_unet = count("unet2d")
    terminal = sum(leaf.size for leaf in jax.tree.leaves(plain["terminal"]))
    assert params["controller"]["kernel"].shape == (1, 1, 256 + 5, 153)
    assert total == all_of_unet - terminal + (16 * 8 + 8) + (256 + 5 + 1) * 153


def test_stains_differ_by_their_codes_in_the_controller_alone(trained):
    apply, variables, x = trained
    stains = apply(variables, x)
    assert np.abs(stains[..., 0] - stains[..., 1]).max() > 1e-2 * np.abs(stains).max()

    def swap(kernel):  # the rows that meet the codes come last
        kernel[..., [-3, -2], :] = kernel[..., [-2, -3], :]
        return kernel

    np.testing.assert_allclose(apply(with_controller(variables, swap), x), stains[..., [1, 0, 2]], rtol=1e-5)

    def forget(kernel):
        kernel[..., -3:, :] = 0
        return kernel

    same = apply(with_controller(variables, forget), x)
    np.testing.assert_array_equal(same[..., 1:], np.repeat(same[..., :1], 2, axis=-1))

    def change(kernel):
        kernel[..., -1, :] *= 2
        return kernel

    other = apply(with_controller(variables, change), x)
    np.testing.assert_array_equal(other[..., :2], stains[..., :2])
    assert np.abs(other[..., 2] - stains[..., 2]).max() > 1e-3


def test_an_image_is_stained_by_itself_and_sees_all_its_slices(trained):
    """The pooled code is of one image, not of the batch."""
    apply, variables, x = trained
    both = apply(variables, x)
    np.testing.assert_allclose(apply(variables, x[1:]), both[1:], rtol=1e-4, atol=1e-5)
    for at in np.ndindex(2, 2):  # slice, channel
        other = x.copy()
        other[0, at[0], 0, 0, at[1]] += 1
        far = np.abs(apply(variables, other) - both)[:, :, -1, -1].max(axis=(1, 2))
        assert far[0] > 1e-4  # beyond what the convolutions see, through the code
        assert far[1] < 1e-6
