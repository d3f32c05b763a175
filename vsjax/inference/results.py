"""From normalised predictions to what the user gets: the targets' units, and mean and spread of several draws."""

from collections.abc import Iterable

import numpy as np

from vsjax.intensity.normalization import location_scale
from vsjax.runtime.checkpoint import Checkpoint


def target_units(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray] | None:
    """Location and scale [C'] of the targets, from the statistics of the training dataset: at prediction there is no
    target image whose own statistics could be used. None where a target's statistics are not known."""
    target = checkpoint.description.channels["target"]
    channels, normalization = target.channels, target.normalization
    if normalization.scope == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    statistics = checkpoint.description.statistics
    if not set(channels) <= set(statistics):
        return None
    statistic, where = normalization.statistic, f"(description.statistics of {checkpoint.path})"
    pairs = [location_scale(statistics[name], statistic, f"{name} {where}") for name in channels]
    location, scale = np.array(pairs, np.float32).T
    return location, scale


def mean_and_spread(draws: Iterable[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation (n - 1) over draws [..., C], joined to [..., 2 C]; two are held at a time
    (Welford 1962)."""
    mean = squares = None
    for count, draw in enumerate(draws, start=1):
        if mean is None:
            mean, squares = draw.copy(), np.zeros_like(draw)
            continue
        distance = draw - mean
        mean += distance / count
        squares += distance * (draw - mean)
    return np.concatenate([mean, np.sqrt(squares / (count - 1))], axis=-1)
