"""What both sides compute on, made from a seed by NumPy alone."""

from collections.abc import Sequence

import numpy as np


def images(batch: int, patch: Sequence[int], channels: int, targets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Source `[B, C, Z, Y, X]` and target `[B, C', Z, Y, X]`, float32, of mean about 0 and standard deviation about 1;
    the target follows from the source, so that there is something to learn."""
    random = np.random.default_rng(seed)
    source = random.standard_normal((batch, channels, *patch), np.float32)
    source = (source + np.roll(source, 1, axis=-1) + np.roll(source, 1, axis=-2)) / np.float32(np.sqrt(3))
    slopes = np.linspace(0.5, 1.5, targets, dtype=np.float32).reshape(1, targets, 1, 1, 1)
    return source, np.tanh(slopes * source[:, :1])
