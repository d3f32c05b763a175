"""Test-time augmentation: the four predictions are turned back before they are combined."""

import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.inference.tta import with_rotations


def rotated(network, tta):
    """For a network that does not ask where its windows lie."""
    apply = with_rotations(lambda windows, origins, turns: network(windows), tta)
    return lambda windows: apply(windows, np.zeros((len(windows), 3)))


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(1, 2, 6, 10, 1)).astype(np.float32)


@pytest.mark.parametrize("tta", ["mean", "median"])
def test_equivariant_network_is_unchanged(image, tta):
    output = rotated(lambda x: jnp.square(jnp.asarray(x)), tta)(image)
    np.testing.assert_allclose(output, image**2, rtol=1e-6)


@pytest.mark.parametrize(("tta", "combine"), [("mean", np.mean), ("median", np.median)])
def test_network_that_knows_up_from_left(image, tta, combine):
    """A network that differs along Y and X, against the four rotations written out in NumPy: a wrong inverse, a wrong
    axis, or a missing rotation gives other numbers."""

    def network(x):
        rows = jnp.arange(x.shape[2])[None, None, :, None, None]
        return jnp.cumsum(jnp.asarray(x), axis=3) + rows * x

    four = [np.rot90(np.asarray(network(np.rot90(image, k, (2, 3)))), -k, (2, 3)) for k in range(4)]
    output = rotated(network, tta)(image)
    np.testing.assert_allclose(output, combine(four, axis=0), rtol=1e-5)
    assert not np.allclose(output, network(image))


def test_corner_goes_back_to_its_corner():
    """A network that only marks the first pixel that it sees marks each corner once."""
    output = rotated(lambda x: jnp.zeros_like(x).at[:, :, 0, 0].set(4.0), "mean")(np.zeros((1, 1, 4, 6, 1)))
    expected = np.zeros((4, 6))
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
    np.testing.assert_array_equal(output[0, 0, :, :, 0], expected)


def test_unknown_way_to_combine():
    with pytest.raises(UserError, match="none, mean, median"):
        rotated(lambda x: x, "product")
