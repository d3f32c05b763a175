"""Up-sampling by pixel shuffle (Shi et al. 2016), its checkerboard-free initialisation, and PyTorch's default ones."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Move channels into the plane: `[..., Y, X, C*factor²] -> [..., Y*factor, X*factor, C]`.

    Channels are ordered as in PyTorch: output channel first, then the offset in Y, then the offset in X.
    """
    *lead, rows, columns, channels = x.shape
    kept = channels // factor**2
    x = x.reshape(*lead, rows, columns, kept, factor, factor)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, rows * factor, columns * factor, kept)


def blur_after_shuffle(x: Array, factor: int) -> Array:
    """Average over `factor` x `factor` windows that end at each pixel, zeros before the image: `[B, Y, X, C]`.

    The blur that Sugawara et al. 2018 put after a pixel shuffle against checkerboard artefacts.
    """
    window = (1, factor, factor, 1)
    padding = ((0, 0), (factor - 1, 0), (factor - 1, 0), (0, 0))
    total = jax.lax.reduce_window(x, x.dtype.type(0), jax.lax.add, window, (1, 1, 1, 1), padding)
    return total / factor**2


def icnr(factor: int) -> nn.initializers.Initializer:
    """Initialiser for the layer before `pixel_shuffle`: the kernels of one output channel's pixels start out equal.

    He-normal otherwise. Kernels are `[..., in, C*factor²]` (Aitken et al. 2017, arXiv:1707.02937).
    """

    def initialise(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        fan_in = math.prod(shape[:-1])
        small = (*shape[:-1], shape[-1] // factor**2)
        return jnp.repeat(math.sqrt(2 / fan_in) * jax.random.normal(key, small, dtype), factor**2, axis=-1)

    return initialise


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for the kernel and the bias of linear and convolution layers: U(-1, 1)/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def initialise(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialise
