"""Being told to stop (SIGTERM, from a scheduler that wants the machine back): save, and say so with the exit status."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Listens for SIGTERM from the moment it is made until `close`.

    Several processes agree, through JAX's coordination service, on one step after which all of them stop: the one that
    was told tells the others.
    """

    def __init__(self) -> None:
        self._told = False
        self._alone = jax.process_count() == 1
        self._before = signal.signal(signal.SIGTERM, self._note) if self._alone else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def __enter__(self) -> "Preemption":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stops_after(self, step: int) -> bool:
        """Whether the run must stop after this step. Every process must ask after every step."""
        return self._told if self._alone else multihost_utils.reached_preemption_sync_point(step)

    def close(self) -> None:
        """Give the signal back to whoever handled it before."""
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)
