"""Steps small enough to check by hand, and a program that applies one slowly: what the tests kill."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vsjax.plates.derived import Listener, make_plate
from vsjax.plates.step import Derived, ImageInfo, Result


@dataclass(frozen=True)
class Power:
    """Every pixel to a power, after a sleep; tells which process did it, which decides nothing."""

    power: int = 2
    sleep_s: float = 0.0
    note: str = ""
    name = "power"
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "settings", {"power": {"of": self.power}})

    @property
    def about(self):
        return {"note": self.note}

    def derive(self, image: ImageInfo) -> Derived:
        def apply(stack, time_point, job):
            time.sleep(self.sleep_s)
            limit = job.resolved("limit", lambda: {"value": 10**self.power})["value"]
            return Result(pixels=np.minimum(stack.astype(np.float64) ** self.power, limit))

        result = image.with_new_pixels(dtype=np.dtype(np.float32))
        return Derived(reads=tuple(range(image.shape[1])), image=result, apply=apply)


@dataclass(frozen=True)
class LastChannelCropped:
    """The last channel's upper left corner, less `offset`."""

    offset: float = 0.1
    name = "corner"
    about = {}  # noqa: RUF012

    @property
    def settings(self):
        return {"offset": self.offset}

    def derive(self, image: ImageInfo) -> Derived:
        times, channels, depth, rows, columns = image.shape
        result = image.with_new_pixels(
            shape=(times, 1, depth, rows // 2, columns // 2),
            dtype=np.dtype(np.float16),
            channel_names=image.channel_names[-1:],
            display=image.display[-1:],
        )

        def apply(stack, time_point, job):
            return Result(pixels=stack[..., : rows // 2, : columns // 2] - self.offset)

        return Derived(reads=(channels - 1,), image=result, apply=apply)


@dataclass(frozen=True)
class Bright:
    """The first channel, after a sleep, with a label where it is above a threshold and how much of it that is."""

    above: int = 4
    sleep_s: float = 0.0
    label: str = "bright"
    name = "bright"
    about = {}  # noqa: RUF012

    @property
    def settings(self):
        return {"above": self.above, "label": self.label}

    def derive(self, image: ImageInfo) -> Derived:
        def apply(stack, time_point, job):
            time.sleep(self.sleep_s)
            bright = stack[0] > self.above
            if not bright.any():
                return Result(pixels=stack, labels={self.label: np.zeros(stack.shape[1:], np.uint8)})
            labels, found = {self.label: bright * 70_000}, {"share": bright.mean(), "at": [time_point]}
            return Result(pixels=stack, labels=labels, found=found)

        result = image.with_new_pixels(
            shape=(image.shape[0], 1, *image.shape[2:]), channel_names=image.channel_names[:1], display=({},)
        )
        return Derived(reads=(0,), image=result, apply=apply, labels=(self.label,))


class Lines(Listener):
    """A line per time point that was computed (slices of one stack at once) and per position that is finished."""

    def position_begins(self, name):
        self.name = name

    def slices_done(self, slices):
        print(f"{self.name} computed", flush=True)

    def position_finished(self, name):
        print(f"{name} finished", flush=True)


if __name__ == "__main__":
    name, source, output, sleep_s, process, processes = sys.argv[1:]
    step = {"power": Power, "bright": Bright}[name](sleep_s=float(sleep_s))
    summary = make_plate(step, source, output, process=int(process), processes=int(processes), listener=Lines())
    print("complete" if summary.complete else "not complete")
