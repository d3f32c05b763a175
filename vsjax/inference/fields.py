"""Which positions a process predicts, and what predicting one of them needs: opened and checked one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vsjax.errors import UserError
from vsjax.inference.predictor import Predictor
from vsjax.intensity.normalization import location_scale
from vsjax.intensity.statistics import read_statistics
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate


@dataclass(frozen=True)
class Field:
    """One position to predict: the source channels' indices, and the location and scale [C] of each time point."""

    position: Position
    channels: tuple[int, ...]
    normalization: tuple[tuple[np.ndarray | None, np.ndarray | None], ...]

    @property
    def times(self) -> int:
        """Time points."""
        return self.position.shape[0]

    @property
    def stack_shape(self) -> tuple[int, int, int, int]:
        """[Z, Y, X, C] of what the predictor gets."""
        return (*self.position.shape[2:], len(self.channels))


@dataclass(frozen=True)
class PositionNames:
    """The names to predict: the given ones, each once, or all of a plate's. They are read anew each time they are
    iterated: a plate may have a million."""

    source: Plate
    given: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self.given)) if self.given else self.source.iter_position_names()


def share(names: PositionNames, process: int, processes: int) -> Iterator[Position]:
    """Those positions that are this process's: every `processes`-th.

    Raises:
        UserError: one of the given positions does not exist, whoever it falls to.
    """
    if not names.given:
        return names.source.positions(process, processes)
    found = [names.source[name] for name in names]
    return islice(found, process, None, processes)


def open_field(predictor: Predictor, position: Position, channels: Sequence[str]) -> Field:
    """What predicting a position needs.

    Raises:
        UserError: a channel or its statistics are missing, or the stack is shallower than the network's input.
    """
    indices = tuple(position.channel_index(channel) for channel in channels)
    times, _, depth, *_ = position.shape
    if depth < predictor.in_depth:
        raise UserError(
            f"{position.url}: the stack has {depth} slices (Z) but the network needs at least {predictor.in_depth} "
            "(in_stack_depth); take a deeper plate, or a checkpoint of a shallower network"
        )
    pairs = tuple(_location_scale(predictor, position, indices, time) for time in range(times))
    return Field(position, indices, pairs)


def _location_scale(
    predictor: Predictor, position: Position, channels: Sequence[int], time: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What normalises one stack, [C], from the plate's statistics at the level that the model was trained with."""
    level, statistic = predictor.normalization.scope, predictor.normalization.statistic
    if level == "patch":
        return None, None
    if level == "none":
        return np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
    pairs = []
    for channel in channels:
        name = position.channel_names[channel]
        statistics = read_statistics(position, name, level, time)
        pairs.append(location_scale(statistics, statistic, f"{name} of {position.url}"))
    location, scale = np.array(pairs, np.float32).T
    return location, scale
