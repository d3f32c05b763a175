"""Test-time augmentation: the mean or median of the predictions of four 90° rotations."""

from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from vsjax.errors import UserError
from vsjax.inference.windows import Apply
from vsjax.runtime.experiment import Tta

TurnedApply = Callable[[np.ndarray | jax.Array, np.ndarray, int], jax.Array]
_PLANE = (-3, -2)  # Y and X of [..., Y, X, C]


def with_rotations(apply: TurnedApply, tta: Tta) -> Apply:
    """Wrap `apply` so that it returns the mean or median of its predictions of the image turned by 0, 90, 180, 270°.

    Every prediction is turned back before they are combined. The field of view need not be square, but Y and X must
    both suit the network in either role: pad to the least common multiple of its divisors first. The median of four
    is the mean of the middle two (as NumPy's; PyTorch's `median` takes the lower of them).

    Args:
        apply: windows [B, Z, Y, X, C], their origins [B, 3] and the number of turns -> [B, Z', Y, X, C'].
        tta: "none" predicts without turns.
    """
    if tta not in get_args(Tta):
        raise UserError(f"tta is {tta!r}; it must be one of {', '.join(get_args(Tta))}")
    if tta == "none":
        return lambda windows, origins: apply(windows, origins, 0)

    def rotated(windows: np.ndarray | jax.Array, origins: np.ndarray) -> jax.Array:
        predictions = (jnp.rot90(apply(jnp.rot90(windows, k, _PLANE), origins, k), -k, _PLANE) for k in range(4))
        if tta == "mean":  # summed one by one, so that only two predictions are held
            return sum(predictions) / 4
        return jnp.median(jnp.stack(list(predictions)), axis=0)

    return rotated
