"""What the floor of a row is made of (`report.floor`): the machine's rates, and the products and bytes of a network."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from scripts.benchmarking import measure
from vsjax.models.network import Network
from vsjax.runtime.cost import multiply_adds

SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the square matrices whose product is the matrix rate
COPIED = {"cpu": 1 << 26, "gpu": 1 << 30, "tpu": 1 << 30}  # bytes


def matrix_rates() -> dict[str, float]:
    """Multiply-adds per second of a large product, by type, and bytes per second of a copy, on the first device."""
    kind = jax.default_backend()
    size = SIDE[kind]
    rates = {}
    for name in ("float32", "bfloat16"):
        x = jnp.ones((size, size), name)
        product = jax.jit(jnp.matmul)
        rates[name] = size**3 / measure.best_seconds(lambda x=x, f=product: f(x, x).block_until_ready())
    x = jnp.ones(COPIED[kind], jnp.uint8)
    copy = jax.jit(lambda x: x + jnp.uint8(1))
    rates["copy"] = 2 * COPIED[kind] / measure.best_seconds(lambda: copy(x).block_until_ready())
    return rates


def forward_work(network: Network, shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds of one prediction for `[B, Z, Y, X, C]`, and the bytes of what its products read and write."""
    network, variables, x = _traced(network, shape)
    return _work(lambda variables, x: network.apply(variables, x, train=False), variables, x)


def training_work(network: Network, shape: tuple[int, ...]) -> dict[str, int]:
    """The same of a prediction and the gradient of its sum in every parameter; the loss and the optimiser are left
    out, and so is all that is recomputed."""
    network, variables, x = _traced(network, shape)
    params, others = variables["params"], {name: value for name, value in variables.items() if name != "params"}

    def total(params: Any, others: Any, x: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.key(0)}
        return network.apply({"params": params, **others}, x, train=True, rngs=rngs, mutable=list(others))[0].sum()

    return _work(jax.value_and_grad(total), params, others, x)


def _traced(network: Network, shape: tuple[int, ...]) -> tuple[Network, Any, jax.ShapeDtypeStruct]:
    network = network.with_plain_convolutions()  # products that are written as shifted sums would not be seen
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return network, jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), x), x


def _work(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    moved = sum(v.aval.size * v.aval.dtype.itemsize for e in _products(needed) for v in (*e.invars, *e.outvars))
    return {"multiply_adds": multiply_adds(function, *args), "bytes": moved}


def _products(jaxpr: Jaxpr) -> Iterator[Any]:
    """The convolutions and matrix products, in whatever they are nested."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _products(getattr(inner, "jaxpr", inner))
