"""The shifted sum and its gradient rule against SciPy and against XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from vsjax.models.depthwise import depthwise_conv


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
