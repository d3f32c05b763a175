"""Matrix products that sum in float32, and their gradients, in the form that is fast where they run.

On a CPU, XLA (JAX 0.10) multiplies bfloat16 matrices on the matrix units only if the result is asked for in float32 and
the left matrix lies with its summed axis last; any other product it widens to float32 first, which takes up to ten
times as long. The gradient of a kernel sums over the rows of both factors, so one of them has to be turned.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint


def on_one_cpu() -> bool:
    """Whether the program runs on one CPU device; forms that suit only it would move data between several."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


class DenseParameters(nn.Module):
    """Kernel `[inputs, features]` and bias `[features]` of a dense layer, for `dense`."""

    features: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features))
        return kernel, self.param("bias", self.bias_init, (self.features,))


def dense(x: Array, kernel: Array, bias: Array, dtype: Any) -> Array:
    """`[..., K] @ [K, N] + [N] -> [..., N]` in `dtype`, the factors rounded to it, sums and bias in float32."""
    return (apart(product(x, kernel, dtype)) + bias).astype(dtype)


def apart(x: Array) -> Array:
    """The same array, where XLA does not join what computes it with what follows: rounded to the precision that it has.
    On a CPU XLA would add a bias within the product, and write it out at every pixel for that."""
    has = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, has.nexp, has.nmant) if on_one_cpu() else x


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Array, kernel: Array, dtype: Any) -> Array:
    """`[..., K] @ [K, N] -> [..., N]` in float32, the factors rounded to `dtype`."""
    return _contract(x, kernel, dtype, 0)


def _contract(x: Array, kernel: Array, dtype: Any, axis: int) -> Array:
    """Sum over the last axis of x and `axis` of the kernel."""
    dimensions = (((x.ndim - 1,), (axis,)), ((), ()))
    return lax.dot_general(x.astype(dtype), kernel.astype(dtype), dimensions, preferred_element_type=_wide(dtype))


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _forward(x: Array, kernel: Array, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, dtype), (x.astype(dtype), kernel)


def _backward(dtype: Any, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return input_gradient(cotangent, kernel, dtype), kernel_gradient(x, cotangent, dtype)


product.defvjp(_forward, _backward)


def input_gradient(cotangent: Array, kernel: Array, dtype: Any) -> Array:
    """Of `product`, to its first factor: `[..., N], [K, N] -> [..., K]` in `dtype`."""
    return _contract(cotangent, kernel, dtype, 1).astype(dtype)


def kernel_gradient(x: Array, cotangent: Array, dtype: Any) -> Array:
    """Of `product`, to its second factor: `[..., K], [..., N] -> [K, N]` in float32, summed over all leading axes."""
    x, cotangent = x.astype(dtype), cotangent.astype(dtype)
    if not on_one_cpu():
        rows = tuple(range(x.ndim - 1))
        return lax.dot_general(x, cotangent, ((rows, rows), ((), ())), preferred_element_type=_wide(dtype))
    x, cotangent = (a.reshape(-1, a.shape[-1]) for a in (x, cotangent))
    if x.shape[1] > cotangent.shape[1]:  # the narrower one is turned
        return lax.optimization_barrier(kernel_gradient(cotangent, x, dtype)).T  # or XLA would turn the wider again
    turned = with_layout_constraint(lax.transpose(x, (1, 0)), Layout(major_to_minor=(0, 1)))
    return lax.dot_general(turned, cotangent, (((1,), (0,)), ((), ())), preferred_element_type=_wide(dtype))
