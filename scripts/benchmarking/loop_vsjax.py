"""The loop's side of `bench_loop`: `train` itself, which goes on by one step whenever it is told.

It waits where it shows its progress, once for each step, with as many steps under way on the device as ever; so steps
that follow each other at once take as long as they do without the waiting. The first ones of a turn find batches that
were read meanwhile: they are no measure."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from scripts.benchmarking.device_vsjax import device_report
from scripts.benchmarking.experiment_vsjax import family_config
from scripts.benchmarking.side import Work, serve
from vsjax.training import loop


class Over(Exception):
    """Nobody asks for more steps."""


class Paced:
    """A run of `train` in the main thread, where signals are heeded, and the server that tells it to go on."""

    def __init__(self) -> None:
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._over = False
        self._config: ConfigDict | None = None
        self._folder = ""

    def prepare(self, request: Mapping[str, Any]) -> Work:
        """Have the run begun and its first step taken."""
        self._config, self._folder = family_config(request), request["folder"]
        self._config.train.update(steps=10**6, epochs=0, save_every=request["save_every"], validate_every=10**6)
        self._config.data.val_fraction = 0.0
        self._turn.release()  # to begin
        self.step()
        return Work(self.step, {}, self.finish)

    def step(self) -> None:
        """Let it go on until another step is done."""
        self._turn.release()
        self._done.acquire()

    def finish(self) -> dict[str, Any]:
        """Let it end."""
        self._over = True
        self._turn.release()
        return device_report()

    def train(self) -> None:
        """The run, from when it is asked for to when nobody asks any more."""
        paced = self

        class Bar(tqdm):
            """Waits to be told before it says that a step is done."""

            def update(self, n: float | None = 1) -> bool | None:
                paced._turn.acquire()
                if paced._over:
                    raise Over
                paced._done.release()
                return super().update(n)

        self._turn.acquire()
        before, loop.tqdm = loop.tqdm, Bar
        try:
            loop.train(self._config, Path(self._folder) / f"run_{self._config.train.save_every}")
        except Over:
            return
        finally:
            loop.tqdm = before


if __name__ == "__main__":
    paced = Paced()
    server = threading.Thread(target=serve, args=(paced.prepare,), daemon=True)
    server.start()
    paced.train()
    server.join()
