"""The shifted sum and its gradient rule against SciPy and against XLA's convolution."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from vsjax.models.depthwise import depthwise_conv

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("implementation", ["shift", "conv"])
def test_equals_scipys_correlation(implementation):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 11, 9, 3)), rng.normal(size=(7, 7, 3))
    ours = depthwise_conv(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), implementation)
    for sample in range(2):
        for channel in range(3):
            theirs = correlate2d(x[sample, ..., channel], kernel[..., channel], mode="same")
            np.testing.assert_allclose(ours[sample, ..., channel], theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "size"),
    [(2, 37, 6, (7, 7)), (5, 8, 9, (7, 7)), (1, 1, 2, (7, 7)), (3, 16, 5, (5, 3)), (17, 3, 4, (3, 3))],
)
def test_gradients_equal_those_of_xlas_convolution(batch, rows, columns, size):
    """Sizes on both sides of the band height, and smaller than the kernel."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, rows, columns, 4))
    kernel = jax.random.normal(keys[1], (*size, 4))
    cotangent = jax.random.normal(keys[2], x.shape)
    ours = jax.vjp(lambda *a: depthwise_conv(*a, "shift"), x, kernel)[1](cotangent)
    theirs = jax.vjp(lambda *a: depthwise_conv(*a, "conv"), x, kernel)[1](cotangent)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_bfloat16_sums_in_float32():
    """Rounding each of 49 partial sums to bfloat16 would lose 2 digits; the inputs here are exact in bfloat16."""
    x = jnp.ones((1, 15, 15, 2), jnp.bfloat16)
    kernel = jnp.full((7, 7, 2), 1 + 2**-7, jnp.bfloat16)
    y = depthwise_conv(x, kernel, "shift")
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0, 7, 7].astype(jnp.float32), jnp.bfloat16(49 * (1 + 2**-7)).astype(jnp.float32))


def test_a_misspelt_implementation_is_refused():
    with pytest.raises(ValueError, match="auto, shift, conv"):
        depthwise_conv(jnp.zeros((1, 8, 8, 2)), jnp.zeros((7, 7, 2)), "fast")


PARTS = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from scipy import ndimage
from vsjax.models.depthwise import depthwise_conv
from vsjax.runtime.mesh import make_mesh, replicated

rng = np.random.default_rng(0)
kernel = rng.normal(size=(7, 7, 3)).astype(np.float32)
for sizes in ((2, 1, 2), (2, 2, 2), (4, 1, 2)):
    mesh = make_mesh(dict(zip(("data", "fsdp", "space"), sizes)), jax.devices()[: int(np.prod(sizes))])
    parts = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "space"))
    convolve = jax.jit(lambda x, k: depthwise_conv(x, k, "conv"), out_shardings=parts)
    for plane in ((2, 1), (2, 6), (4, 2), (4, 3), (6, 2), (16, 16)):
        x = rng.normal(size=(4, *plane, 3)).astype(np.float32)
        found = convolve(jax.device_put(x, parts), jax.device_put(kernel, replicated(mesh)))
        expected = np.stack([
            np.stack([ndimage.correlate(one[..., c], kernel[..., c], mode="constant") for c in range(3)], axis=-1)
            for one in x.astype(np.float64)
        ])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=f"{sizes} {plane}")
"""


def test_planes_of_a_few_pixels_are_right_on_parts_of_samples_and_rows():
    """What XLA's partitioner does wrong with all 7x7 taps: without the fix, every plane but the last fails here."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", PARTS], env=env, check=True, timeout=120, cwd=ROOT)
