"""The fast forms of convolutions against XLA's general one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from vsjax.models.convolution import PatchConv, convolve

LAYOUTS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("shape", [(8, 12), (9, 8, 14), (5, 7, 9)])
def test_patches_times_kernel_is_the_strided_convolution(shape):
    size = (3, 4, 2)[-len(shape) :]
    x, kernel, bias = normal(0, 2, *shape, 3), normal(1, *size, 3, 5), normal(2, 5)
    ours = PatchConv(5, size, nn.initializers.zeros).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    theirs = lax.conv_general_dilated(x, kernel, size, "VALID", dimension_numbers=LAYOUTS[len(shape)]) + bias
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 1, 1), (1, 1, 1), (2, 0, 1)])
@pytest.mark.parametrize("size", [(3, 3, 3), (5, 1, 1), (1, 3, 5)])
def test_by_planes_is_the_3d_convolution(size, padding, stride):
    x, kernel = normal(0, 2, 6, 8, 9, 3), normal(1, *size, 3, 4)
    pads = [(p, p) for p in padding]
    theirs = lax.conv_general_dilated(x, kernel, (stride,) * 3, pads, dimension_numbers=LAYOUTS[3])
    for by_planes in (True, False):
        ours = convolve(x, kernel, stride, padding, by_planes)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_gradients_by_planes():
    x, kernel = normal(0, 1, 4, 6, 6, 2), normal(1, 3, 3, 3, 2, 3)

    def loss(x, kernel, by_planes):
        return jnp.square(convolve(x, kernel, 1, (0, 1, 1), by_planes)).sum()

    ours, theirs = (jax.grad(loss, (0, 1))(x, kernel, by_planes) for by_planes in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), ours, theirs)
