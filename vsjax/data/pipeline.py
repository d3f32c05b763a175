"""The Grain pipeline: batch k is a function of (seed, k), whatever the number of processes and wherever a run resumed.

Only *where* to crop goes through Grain's random map and shuffles; the pixels are read afterwards, a whole batch at
once, so that TensorStore fetches the chunks of all its crops together. Each process reads only the rows of the global
batch that its devices need."""

from collections.abc import Iterator, Mapping, Sequence

import grain.python as grain
import numpy as np
import tensorstore as ts

from vsjax.data.fovs import FieldOfView
from vsjax.data.roles import Request, Role, pixel_type
from vsjax.data.sampling import Crop, CropSampler
from vsjax.errors import UserError

Batch = dict[str, np.ndarray]


class CropReader:
    """Reads what each role holds of a crop.

    Args:
        fovs: the FOVs that crops refer to by number.
        size: voxels (z, y, x) of a crop.
        roles: what a batch holds, by name.

    Raises:
        UserError: a FOV lacks a channel, statistics, labels or metadata, or they cannot be used.
    """

    def __init__(self, fovs: Sequence[FieldOfView], size: tuple[int, int, int], roles: Mapping[str, Role]) -> None:
        self._fovs = fovs
        self._size = size
        self._roles = roles
        self._dtype = pixel_type(fov.position.dtype for fov in fovs)
        for fov in fovs:
            for role in roles.values():
                role.check(fov.position)

    def __call__(self, crops: Sequence[Crop]) -> Batch:
        """The batch: for each role what `Role.arrays` says, the first axis that of the crops."""
        requests: dict[str, list[Request]] = {name: [] for name in self._roles}
        with ts.Batch() as batch:
            for crop in crops:
                position = self._fovs[crop.fov].position
                z, y, x = (range(start, start + n) for start, n in zip(crop.origin, self._size, strict=True))
                slices = np.clip(z, 0, position.shape[2] - 1)
                place = (slices, slice(y.start, y.stop), slice(x.start, x.stop))
                for name, role in self._roles.items():
                    requests[name].append((position, crop.time, role.request(position, crop.time, place, batch)))
        arrays: Batch = {}
        for name, role in self._roles.items():
            arrays |= role.arrays(name, requests[name], self._dtype)
        return arrays


def training_batches(
    fovs: Sequence[FieldOfView],
    sampler: CropSampler,
    reader: CropReader,
    *,
    batch_size: int,
    weights: Sequence[float],
    seed: int,
    crops_per_fov: int = 1,
    rows: Sequence[int] | None = None,
) -> grain.MapDataset:
    """The endless dataset whose element k is the global batch at step k, or those of its rows that a process needs.

    Each plate is shuffled over its (FOV, time point) pairs, epoch by epoch, and the plates are mixed with `weights`. Of
    each pair that is drawn, `crops_per_fov` crops follow one another, which share the chunks that are read.

    Raises:
        UserError: the number of weights is not the number of plates.
    """
    plates = sorted({fov.plate for fov in fovs})
    weights = list(weights) or [1.0] * len(plates)
    if len(weights) != len(plates) or min(weights) <= 0:
        raise UserError(
            f"config.data.weights={tuple(weights)} must hold one positive number for each of the {len(plates)} plates"
        )

    def draw(pair: tuple[int, int], rng: np.random.Generator) -> Crop:
        return sampler.draw(*pair, rng)

    streams = []
    for plate in plates:
        pairs = [(n, t) for n, fov in enumerate(fovs) if fov.plate == plate for t in range(fov.position.shape[0])]
        streams.append(grain.MapDataset.source(pairs).seed(seed + plate).shuffle().repeat())
    streams = [stream for stream in streams for _ in range(crops_per_fov)]  # mixed in turn, each repeats the one before
    shares = np.repeat(weights, crops_per_fov) / (sum(weights) * crops_per_fov)
    crops = grain.MapDataset.mix(streams, weights=shares.tolist())
    wanted = range(batch_size) if rows is None else rows
    batches = crops.seed(seed).random_map(draw).batch(batch_size, batch_fn=list)
    return batches.map(lambda batch: reader([batch[row] for row in wanted]))


def iterate_from(dataset: grain.MapDataset, step: int, *, threads: int = 4, prefetch: int = 4) -> Iterator[Batch]:
    """The elements of `dataset` from `step` on, read ahead by threads."""
    iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))
    iterator.set_state({"next_index": step})
    return iterator


def evaluation_batches(
    crops: Sequence[Crop], reader: CropReader, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Every crop once, in batches of one size, or the rows of them that a process needs; `weight` `[B]` is 0 for those
    that only fill the last batch."""
    wanted = list(range(batch_size) if rows is None else rows)
    for start in range(0, len(crops), batch_size):
        block = list(crops[start : start + batch_size])
        weight = np.array([1.0] * len(block) + [0.0] * (batch_size - len(block)), np.float32)
        block += [block[-1]] * (batch_size - len(block))
        yield {**reader([block[row] for row in wanted]), "weight": weight[wanted]}
