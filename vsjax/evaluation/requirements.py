"""What levels look at beside prediction and target, such as labels; read only where a chosen level requires it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vsjax.errors import UserError
from vsjax.evaluation.level import Level
from vsjax.evaluation.pairing import SPREAD, Job
from vsjax.plates.arrays import read
from vsjax.plates.pixels import Pixels


def _source(job: Job, name: str) -> Pixels:
    return job.target.array()[:, job.target.channel_index(name)]


def _labels(job: Job, name: str) -> Pixels:
    """The target plate's NGFF labels: integers, 0 the background, of the same shape as the image."""
    array = job.target.label(name)
    where = f"{job.target.url}/labels/{name}"
    if array.dtype.numpy_dtype.kind not in "iu":
        raise UserError(f"{where}: pixels are of type {array.dtype.name}, labels are integers; write them as uint32")
    times, _, *space = job.target.shape
    if tuple(array.shape) != (times, 1, *space):
        raise UserError(f"{where}: [T, C, Z, Y, X] is {list(array.shape)}, but {[times, 1, *space]} fits the image; "
                        "write labels of the image's shape")  # fmt: skip
    return array[:, 0]


def _spread(job: Job, name: str) -> Pixels:
    """The standard deviation over the draws of which the prediction is the mean, in the prediction's units."""
    return job.prediction.array()[:, job.prediction.channel_index(job.channel + name)]


# What is named -> the array [T, Z, Y, X]; a UserError says what is wrong with it.
REQUIREMENTS: dict[str, Callable[[Job, str], Pixels]] = {"source": _source, "labels": _labels, "spread": _spread}
_REMEDIES = {"spread": "predict with --draws, so that every channel has one"}


def find_spread(jobs: Sequence[Job]) -> str | None:
    """What ends the names of the channels of spreads; None unless every pair has one."""
    found = all(job.channel + SPREAD in job.prediction.channel_names for job in jobs)
    return SPREAD if found else None


def check(jobs: Sequence[Job], levels: Sequence[Level], names: Mapping[str, str | None]) -> dict[str, str]:
    """See that every position has what the levels require; metadata only.

    Args:
        jobs: the pairs.
        levels: those that were chosen.
        names: how the plates call what may be required, by key of `REQUIREMENTS`; None where nothing is named or there.

    Returns:
        Those of `names` that some level requires.

    Raises:
        UserError: something is not named or not there, or does not fit the images.
    """
    required = {}
    for level in levels:
        for key in level.requires:
            if names[key] is None:
                remedy = _REMEDIES.get(key, f"name them with --{key}")
                raise UserError(f"--levels {level.name}: requires {key}; {remedy}")
            required[key] = names[key]
    for job in {job.target.name: job for job in jobs}.values():
        for key, name in required.items():
            REQUIREMENTS[key](job, name)
    return required


def read_beside(job: Job, required: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What is required of one pair, [Z, Y, X] each, as it is stored. UserError where it cannot be read."""
    reads = {key: REQUIREMENTS[key](job, name)[job.time].read() for key, name in required.items()}
    urls = {key: (job.prediction if key == "spread" else job.target).url for key in reads}
    return {key: np.asarray(read(future, urls[key])) for key, future in reads.items()}
