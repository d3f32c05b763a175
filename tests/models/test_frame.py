"""An image in a larger plane comes out of each network as it does alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.models import registry
from vsjax.models.frame import Frame

SMALL = ((1, 1, 1, 1), (8, 8, 16, 16))
NETWORKS = {
    "unext2": {"in_stack_depth": 4, "stem_kernel_size": (2, 4, 4), "backbone": SMALL, "out_stack_depth": 2,
               "decoder_upsample_pre_conv": True, "head_pool": True},
    "fcmae": {"in_stack_depth": 2, "stem_kernel_size": (2, 4, 4), "encoder_blocks": (1, 1), "dims": (8, 16),
              "head_conv": True},
    "fcmae of a slice": {"in_stack_depth": 1, "stem_kernel_size": (1, 2, 2), "encoder_blocks": (1, 1), "dims": (8, 16)},
    "unet2d": {"num_blocks": 2, "num_filters": (4, 4, 8), "residual": True, "kernel_size": (5, 3)},
    "unet25d": {"num_blocks": 2, "num_filters": (4, 4, 8), "in_stack_depth": 3, "task": "seg"},
    "dodnet": {"num_blocks": 2, "num_filters": (4, 4, 8), "in_stack_depth": 3},
    "fnet3d": {"depth": 2, "mult_chan": 4, "in_stack_depth": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_in_a_larger_plane(name):
    """Wherever it lies in it, whatever lies beside it; all biases and averages are drawn, none is zero."""
    network = registry.build_model(name.split()[0], in_channels=2, out_channels=2, **NETWORKS[name])
    assert network.framed
    random, stride = np.random.default_rng(0), np.array(network.divisor[1:])
    plane, larger = 2 * stride * (1, 2), 2 * stride * (2, 3)
    image = random.normal(size=(2, network.in_stack_depth, *plane, 2)).astype(np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    variables = jax.tree.map(
        lambda x: np.abs(random.normal(1, 0.3, x.shape)).astype(np.float32) / x.size**0.3, variables
    )
    alone = jax.jit(network.apply)(variables, image)
    framed = jax.jit(lambda variables, x, region: network.apply(variables, x, frame=Frame(region, tuple(larger))))
    for first in ((0, 0), tuple(2 * stride), tuple(larger - plane)):
        (y, x), (rows, columns) = first, plane
        volume = random.normal(50, 9, size=(*image.shape[:2], *larger, 2)).astype(np.float32)
        volume[:, :, y : y + rows, x : x + columns] = image
        region = jnp.array([y, y + rows, x, x + columns])
        found = framed(variables, volume, region)[:, :, y : y + rows, x : x + columns]
        np.testing.assert_allclose(found, alone, atol=1e-5 * np.abs(alone).max())
    assert framed._cache_size() == 1
    assert np.abs(alone).max() > 1e-3
    assert alone.std() > 1e-3 * np.abs(alone).max()
