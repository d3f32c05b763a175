"""Weights and a batch made from a seed by NumPy alone, so that two programs in two environments start from the same
numbers: `scripts/peer_training_parity.py` beside PyTorch, `test_training_parity.py` beside JAX."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def seeded_state(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """A float32 tensor `[out, in, *space]` for each of VisCy's names; it depends on its name, its shape and the seed.

    Kernels are normal with variance 1 / inputs, norms' scales near 1, PReLU's slope .25; GRN's two, which begin at zero
    when a network is made, and the biases are normal with standard deviation .1, so that every tensor matters.
    """
    return {name: _tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if len(shape) > 1:
        values = noise / np.sqrt(np.prod(shape[1:]))
    elif name.endswith(".A.weight"):
        values = np.full(shape, 0.25)
    elif name.endswith(".weight") and ".grn." not in name:
        values = 1 + 0.1 * noise
    else:
        values = 0.1 * noise
    return values.astype(np.float32)


def seeded_batch(shape: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Source `[B, 1, Z, Y, X]` and target `[B, 2, Z, Y, X]` for (B, Z, Y, X): patches of 16 pixels and fine noise; the
    targets follow from the source, so that there is something to learn at every scale of the loss."""
    batch, depth, rows, columns = shape
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((batch, 1, depth, rows // 16, columns // 16)).repeat(16, axis=-2).repeat(16, axis=-1)
    source = coarse + 0.3 * rng.standard_normal(coarse.shape)
    target = np.concatenate([np.tanh(source), np.abs(source)], axis=1)
    return source.astype(np.float32), target.astype(np.float32)
