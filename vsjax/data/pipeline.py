"""The Grain pipeline: batch k is a function of (seed, k), whatever the number of processes and wherever a run resumed.

Only *where* to crop goes through Grain's random map and shuffles; the pixels are read afterwards, a whole batch at
once, so that TensorStore fetches the chunks of all its crops together. Each process reads only the rows of the global
batch that its devices need."""

import itertools
from collections.abc import Iterator, Sequence

import grain.python as grain
import numpy as np
import tensorstore as ts

from vsjax.data.fovs import FieldOfView
from vsjax.data.sampling import Crop, CropSampler
from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization, location_scale
from vsjax.plates.arrays import read

Batch = dict[str, np.ndarray]


class CropReader:
    """Reads crops with the statistics that normalise them.

    Args:
        fields: the FOVs that crops refer to by number.
        size: voxels (z, y, x) of a crop.
        source, target: how each is normalised.

    Raises:
        UserError: statistics are missing or unusable (constant or non-finite channel).
    """

    def __init__(
        self,
        fields: Sequence[FieldOfView],
        size: tuple[int, int, int],
        source: Normalization,
        target: Normalization,
    ) -> None:
        self._fields = fields
        self._size = size
        self._normalization = {"source": source, "target": target}
        self._cache: dict[tuple[int, int, str], tuple[np.ndarray, np.ndarray]] = {}
        for number, field in enumerate(fields):
            for time in range(field.position.shape[0]):
                for role in self._normalization:
                    self._location_scale(number, time, role)

    def __call__(self, crops: Sequence[Crop]) -> Batch:
        """The batch: `source` and `target` `[B, Z, Y, X, C]` in stored units, float32, and `ROLE_location`,
        `ROLE_scale` `[B, C]` that normalise them (0 and 1 where the level is decided on the device). Without target
        channels C is 0."""
        futures: dict[str, list[tuple[ts.Future, str]]] = {"source": [], "target": []}
        with ts.Batch() as batch:
            for crop, role in itertools.product(crops, futures):
                field = self._fields[crop.field]
                z, y, x = (range(start, start + n) for start, n in zip(crop.origin, self._size, strict=True))
                slices = np.clip(z, 0, field.position.shape[2] - 1)
                plane = (slice(y.start, y.stop), slice(x.start, x.stop))
                view = field.position.array()[crop.time].oindex[list(getattr(field, role)), slices, *plane]
                futures[role].append((view.read(batch=batch), field.position.url))
        arrays = {}
        for role, pending in futures.items():
            volumes = [np.moveaxis(read(future, where), 0, -1) for future, where in pending]
            arrays[role] = np.stack(volumes).astype(np.float32)
            pairs = [self._location_scale(crop.field, crop.time, role) for crop in crops]
            arrays[f"{role}_location"] = np.stack([location for location, _ in pairs])
            arrays[f"{role}_scale"] = np.stack([scale for _, scale in pairs])
        return arrays

    def _location_scale(self, number: int, time: int, role: str) -> tuple[np.ndarray, np.ndarray]:
        if (number, time, role) not in self._cache:
            normalization, field = self._normalization[role], self._fields[number]
            channels = getattr(field, role)
            location, scale = np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32)
            if normalization.level in ("dataset", "fov", "timepoint"):
                for index, channel in enumerate(channels):
                    name = field.position.channel_names[channel]
                    statistics = field.position.statistics(channel, normalization.level, time)
                    where = f"{name} of {field.position.url}"
                    location[index], scale[index] = location_scale(statistics, normalization.statistic, where)
            self._cache[number, time, role] = location, scale
        return self._cache[number, time, role]


def training_batches(
    fields: Sequence[FieldOfView],
    sampler: CropSampler,
    reader: CropReader,
    *,
    batch_size: int,
    weights: Sequence[float],
    seed: int,
    rows: Sequence[int] | None = None,
) -> grain.MapDataset:
    """The endless dataset whose element k is the global batch at step k, or those of its rows that a process needs.

    Each plate is shuffled over its (FOV, time point) pairs, epoch by epoch, and the plates are mixed with `weights`.

    Raises:
        UserError: the number of weights is not the number of plates.
    """
    plates = sorted({field.plate for field in fields})
    weights = list(weights) or [1.0] * len(plates)
    if len(weights) != len(plates) or min(weights) <= 0:
        raise UserError(
            f"config.data.weights={tuple(weights)} must hold one positive number for each of the {len(plates)} plates"
        )

    def draw(pair: tuple[int, int], rng: np.random.Generator) -> Crop:
        return sampler.draw(*pair, rng)

    streams = []
    for plate in plates:
        pairs = [
            (n, t) for n, field in enumerate(fields) if field.plate == plate for t in range(field.position.shape[0])
        ]
        streams.append(grain.MapDataset.source(pairs).seed(seed + plate).shuffle().repeat())
    crops = grain.MapDataset.mix(streams, weights=[weight / sum(weights) for weight in weights])
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
