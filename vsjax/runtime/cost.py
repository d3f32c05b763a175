"""How much work a network is: multiply-adds counted from the traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-adds of all convolutions and matrix products in `function(*args)`.

    Counts what papers' tables count (products with weights); norms, activations and sums are left out, and so are
    products that no result needs, which the compiler drops. Arguments may be `jax.ShapeDtypeStruct`s: nothing is
    computed.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            per_output = math.prod(kernel) // kernel[out_axis]
            total += math.prod(equation.outvars[0].aval.shape) * per_output // _dilation(equation)
        else:
            repeats = equation.params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _dilation(equation: Any) -> int:
    """A transposed convolution inserts zeros between its inputs; products with them are not work."""
    return math.prod(equation.params["lhs_dilation"])


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """The programs that an equation calls. Of a custom gradient only the forward program is stored as a jaxpr."""
    values = [value for entry in params.values() for value in (entry if isinstance(entry, tuple | list) else (entry,))]
    return [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values if isinstance(v, ClosedJaxpr | Jaxpr)]
