"""What a step is that makes one image from another: pure functions of arrays, and what its plate says of them.

A step knows neither files nor processes: `derived.make_plate` applies it to a plate, `Chain` to what another step gave.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from vsjax.errors import UserError
from vsjax.plates.ngff import OME_KEYS
from vsjax.plates.pixels import Pixels
from vsjax.plates.position import Position, find_channel
from vsjax.plates.statistics_attribute import STATISTICS_ATTRIBUTE, Statistics, find_statistics
from vsjax.schema import to_json

LARGEST_ID = np.iinfo(np.int32).max  # of a label
RECORD_ATTRIBUTE = "vsjax"  # what a derived plate says of itself; see `derived_record`


@dataclass(frozen=True)
class ImageInfo:
    """What an image is, without its pixels.

    Attributes:
        name: of the position, such as "A/4/0".
        url, plate_url: where the image, and the plate, that it comes from lie; for messages.
        shape: (T, C, Z, Y, X).
        dtype: of the pixels.
        channel_names: one per channel.
        scale: size of a step along t (as the file has it), c (1), z, y, x (µm).
        axes: which of "tczyx" are stored.
        attributes: what is neither OME-NGFF's nor the record of a derived plate, among it the intensity statistics.
        display: per channel what viewers are told beside its name, as in `omero`.
        find_attribute: `Position.find_attribute`: what the image, its well or the plate says under a key.
        label: `Position.label`: the array [T, 1, Z, Y, X] of an NGFF label image by its name.
    """

    name: str
    url: str
    plate_url: str
    shape: tuple[int, int, int, int, int]
    dtype: np.dtype
    channel_names: tuple[str, ...]
    scale: tuple[float, float, float, float, float]
    axes: str
    attributes: Mapping[str, Any]
    display: tuple[Mapping[str, Any], ...]
    find_attribute: Callable[[str], Any]
    label: Callable[[str], Pixels]

    @classmethod
    def of(cls, position: Position) -> "ImageInfo":
        """Of an image on disk. UserError where it is not a valid image."""
        names, attributes = position.channel_names, position.attributes
        display = position.metadata.display
        return cls(
            name=position.name,
            url=position.url,
            plate_url=position.plate_url,
            shape=position.shape,
            dtype=position.dtype,
            channel_names=names,
            scale=(position.scale[0], 1.0, *position.pixel_size_um),
            axes=position.axes,
            attributes=further_attributes(attributes),
            display=display + ({},) * (len(names) - len(display)),
            find_attribute=position.find_attribute,
            label=position.label,
        )

    @property
    def pixel_size_um(self) -> tuple[float, float, float]:
        """Size of a pixel along z, y, x."""
        return self.scale[2:]

    def channel_index(self, channel: str | int) -> int:
        """The index of a channel given by name or index; UserError that lists those that exist."""
        return find_channel(self.channel_names, channel, self.url)

    def statistics(self, channel: int, scope: str, time: int = 0) -> Statistics:
        """A channel's intensity statistics, as `Position.statistics`."""
        name = self.channel_names[channel]
        return find_statistics(self.attributes, name, scope, time, where=self.url, plate_url=self.plate_url)

    def with_new_pixels(self, **changes: Any) -> "ImageInfo":
        """With these fields changed, and without the statistics, which are of other pixels."""
        return replace(self, **{"attributes": without_statistics(self.attributes), **changes})


def further_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes of a plate or image that are neither OME-NGFF's nor the record of a derived plate."""
    return {key: value for key, value in attributes.items() if key not in (*OME_KEYS, RECORD_ATTRIBUTE)}


def without_statistics(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes but the intensity statistics."""
    return {key: value for key, value in attributes.items() if key != STATISTICS_ATTRIBUTE}


@dataclass(frozen=True)
class Job:
    """What a step may tell and ask while it computes one stack.

    Attributes:
        progress: call it with the fraction of the stack that was computed since the last call.
        resolved: `resolved(key, choose)` is what was chosen under `key` when it was first asked for, by whichever
            process and in whichever run, else what `choose()` gives (a JSON object): for choices that depend on the
            machine, such as how much of its memory is free.
        stacks: (Z, Y, X) of all images that go in, whichever process takes them, each once; empty where not known.
    """

    progress: Callable[[float], None]
    resolved: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
    stacks: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Result:
    """What comes out of one time point.

    Attributes:
        pixels: [C, Z, Y, X].
        labels: by name, [Z, Y, X] of whole numbers, 0 for background; those that `Derived.labels` names.
        found: what else was found, such as a shift and its confidence: small, as JSON has it. It stands in the image's
            record (`PositionRecord.found`).
    """

    pixels: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """How one image is made from another.

    Attributes:
        reads: the channels that `apply` gets, by index.
        image: what comes out; it has the name and the time points of what goes in.
        apply: (stack [C, Z, Y, X], time, job) -> what comes out. Raises UserError where the pixels do not allow it;
            which image and time point they are is said for it.
        labels: names of the NGFF labels that come out beside the image, in its space.
    """

    reads: tuple[int, ...]
    image: ImageInfo
    apply: Callable[[np.ndarray, int, Job], Result]
    labels: tuple[str, ...] = ()

    def compute(self, stack: np.ndarray, time: int, job: Job) -> Result:
        """`apply`, in the type of the pixels that come out, labels as int32, what was found as JSON has it.

        Raises:
            UserError: `apply` refuses, or an id does not fit into int32.
            ValueError: the step does not keep to what it declares.
        """
        result = self.apply(stack, time, job)
        if set(result.labels) != set(self.labels):
            raise ValueError(f"the labels {sorted(result.labels)} came out, not {sorted(self.labels)}")
        return Result(
            pixels=np.asarray(result.pixels).astype(self.image.dtype, copy=False),
            labels={name: self._ids(name, np.asarray(ids)) for name, ids in result.labels.items()},
            found=json.loads(to_json(dict(result.found))),
        )

    def _ids(self, name: str, ids: np.ndarray) -> np.ndarray:
        if ids.dtype.kind not in "iu" or ids.shape != self.image.shape[2:]:
            raise ValueError(f"label {name!r}: {ids.dtype} {ids.shape}, not whole numbers {self.image.shape[2:]}")
        if ids.max(initial=0) > LARGEST_ID:
            raise UserError(f"label {name!r}: an id is above {LARGEST_ID}; number the objects anew from 1")
        return ids.astype(np.int32, copy=False)


class Step(Protocol):
    """What makes an image from an image.

    Attributes:
        name: what it is called, in the record and on the command line.
        settings: every field, as JSON has it, on which the pixels depend: a plate is resumed only with the same.
        about: what readers of the plate want to know beside it, as JSON has it; decides nothing.
    """

    name: str
    settings: Mapping[str, Any]
    about: Mapping[str, Any]

    def derive(self, image: ImageInfo) -> Derived:
        """What comes out of an image and how; reads no pixels. UserError where the image does not suit."""
        ...


@dataclass(frozen=True)
class Chain:
    """Steps that are applied one after the other in memory: each image is read once, only the last is written, with the
    labels and findings of all. A label stays where it is: steps after it must not move the pixels."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The names of all."""
        return " + ".join(step.name for step in self.steps)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of each step, under its number and name."""
        return {self._key(number): dict(step.settings) for number, step in enumerate(self.steps)}

    @property
    def about(self) -> dict[str, Any]:
        """What all say; of two that say the same, the later."""
        return {key: value for step in self.steps for key, value in step.about.items()}

    def derive(self, image: ImageInfo) -> Derived:
        """What the last step makes of what those before it make. UserError where a step does not suit, two steps give
        labels of one name, or one after them has another space."""
        links: list[Derived] = []
        for step in self.steps:
            links.append(step.derive(links[-1].image if links else image))

        def apply(stack: np.ndarray, time: int, job: Job) -> Result:
            labels, found = {}, {}
            for number, link in enumerate(links):
                given = stack if number == 0 else stack[list(link.reads)]
                result = link.compute(given, time, self._job(job, number))
                stack = result.pixels
                labels |= result.labels
                found |= {self._key(number): result.found} if result.found else {}
            return Result(pixels=stack, labels=labels, found=found)

        return Derived(reads=links[0].reads, image=links[-1].image, apply=apply, labels=self._labels(links))

    def _labels(self, links: Sequence[Derived]) -> tuple[str, ...]:
        names = [name for link in links for name in link.labels]
        if len(set(names)) < len(names):
            raise UserError(f"steps: two give labels of one name ({', '.join(names)}); leave one of them out")
        last = links[-1].image
        for number, link in enumerate(links):
            if link.labels and (link.image.shape[2:], link.image.scale) != (last.shape[2:], last.scale):
                raise UserError(
                    f"steps: one after {self._key(number)} gives the image another size, which its labels "
                    f"{', '.join(link.labels)} would not have; put it before"
                )
        return tuple(names)

    def _job(self, job: Job, number: int) -> Job:
        return Job(
            progress=lambda fraction: job.progress(fraction / len(self.steps)),
            resolved=lambda key, choose: job.resolved(f"{self._key(number)} {key}", choose),
            stacks=job.stacks,
        )

    def _key(self, number: int) -> str:
        return f"{number + 1} {self.steps[number].name}"


def chain(steps: Sequence[Step]) -> Step:
    """One step that does all of them. UserError where there is none."""
    if not steps:
        raise UserError("steps: is empty; name one step or more")
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))
