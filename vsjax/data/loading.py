"""The data of one experiment, opened and checked from its config."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grain.python as grain
import numpy as np
from ml_collections import ConfigDict

from vsjax.data.augmentation import AugmentConfig, oversized_patch
from vsjax.data.fovs import FieldOfView, check_uniform, open_fovs, split_fovs
from vsjax.data.pipeline import Batch, CropReader, evaluation_batches, iterate_from, training_batches
from vsjax.data.roles import ChannelRole, Role, make_roles
from vsjax.data.sampling import Crop, CropSampler, grid_crops
from vsjax.memory import check_memory
from vsjax.plates.statistics_attribute import Statistics
from vsjax.schema import read_section


@dataclass(frozen=True)
class ExperimentData:
    """Training and validation FOVs with their readers; `config` is the experiment's, `rows` are those of every global
    batch that this process reads."""

    config: ConfigDict
    rows: tuple[int, ...]
    roles: Mapping[str, Role]
    training_fovs: list[FieldOfView]
    sampler: CropSampler
    training_reader: CropReader
    validation_reader: CropReader
    validation_crops: list[Crop]

    def training(self, step: int) -> Iterator[Batch]:
        """This process's rows of the global batches from `step` on."""
        data = self.config.data
        return iterate_from(self._batches(), step, threads=data.read_threads, prefetch=data.prefetch)

    def first_batch(self) -> Batch:
        """This process's rows of the batch at step 0."""
        return self._batches()[0]

    def _batches(self) -> grain.MapDataset:
        return training_batches(
            self.training_fovs,
            self.sampler,
            self.training_reader,
            batch_size=self.config.data.batch_size,
            weights=self.config.data.weights,
            seed=self.config.seed,
            crops_per_fov=self.config.data.crops_per_fov,
            rows=self.rows,
        )

    def validation(self) -> Iterator[Batch]:
        """This process's rows of the validation batches, always the same."""
        size = self.config.data.batch_size
        return evaluation_batches(self.validation_crops, self.validation_reader, size, self.rows)

    def steps_per_epoch(self) -> int:
        """Steps that see as many patches as the training FOVs have z windows, over all time points: VisCy's epoch,
        in which the published schedules are given."""
        depth = self.config.data.patch[0]
        shapes = [fov.position.shape for fov in self.training_fovs]
        windows = sum(shape[0] * max(shape[2] - depth + 1, 1) for shape in shapes)
        return math.ceil(windows / self.config.data.batch_size)

    def pixel_size_um(self) -> tuple[float, float, float]:
        """Of the training FOVs, (z, y, x)."""
        z, y, x = self.training_fovs[0].position.pixel_size_um
        return float(z), float(y), float(x)

    def limits(self, name: str) -> tuple[tuple[float, float], ...]:
        """Between which values each channel of a role lies, normalised, in the training FOVs; none where there are no
        channels, or each patch is normalised by itself.

        From the plate's statistics, which see a grid of pixels: what is bright and small lies above their maximum, so
        the range is doubled upwards, and some of it is added below.
        """
        role = self.roles.get(name)
        if not isinstance(role, ChannelRole) or role.normalization.scope == "patch":
            return ()
        found = [role.limits(fov.position, time) for fov in self.training_fovs for time in range(fov.position.shape[0])]
        lows, highs = np.min(found, axis=0)[:, 0], np.max(found, axis=0)[:, 1]
        spans = highs - lows
        pairs = zip(lows - 0.1 * spans, highs + spans, strict=True)
        return tuple((float(low), float(high)) for low, high in pairs)

    def statistics(self) -> dict[str, Statistics]:
        """Of the dataset, by channel of every role."""
        position = self.training_fovs[0].position
        channels = [name for role in self.roles.values() if isinstance(role, ChannelRole) for name in role.channels]
        return {name: position.statistics(name, "dataset") for name in channels}


def open_data(config: ConfigDict, out_depth: int, rows: tuple[int, ...] | None = None) -> ExperimentData:
    """Open the plates of `config.data`, split their FOVs and prepare the readers.

    Args:
        config: the experiment's.
        out_depth: slices that the network predicts of the patch's.
        rows: of each batch, those that this process reads; all by default.

    Raises:
        UserError: plates, channels, labels, FOVs, statistics or sizes are not what the config says.
    """
    data, roles = config.data, make_roles(config.roles)
    rows = tuple(range(data.batch_size)) if rows is None else rows
    patch = tuple(data.patch)
    read_size = oversized_patch(read_section(AugmentConfig, config.augment, "config.augment"), patch)
    _check_memory(roles, len(rows), read_size, data.prefetch)
    training, validation = split_fovs(
        open_fovs(data.plates), data.train_fovs, data.val_fovs, data.val_fraction, config.seed
    )
    check_uniform([*training, *validation])
    # More slices than a stack has cannot be read: the augmentation clamps at the first and the last one.
    depth = min(fov.position.shape[2] for fov in training)
    read_size = (min(read_size[0], max(depth, patch[0])), *read_size[1:])
    unpredicted = patch[0] - out_depth
    z_margins = (unpredicted // 2, unpredicted - unpredicted // 2)
    val_size = tuple(data.val_patch) or patch
    if validation:
        CropSampler(validation, val_size)  # refuses a validation patch that is larger than an image
    return ExperimentData(
        config=config,
        rows=rows,
        roles=roles,
        training_fovs=training,
        sampler=CropSampler(training, read_size, data.importance_channel or None, z_margins),
        training_reader=CropReader(training, read_size, roles),
        validation_reader=CropReader(validation, val_size, roles),
        validation_crops=grid_crops(validation, val_size, data.val_patches),
    )


def _check_memory(roles: Mapping[str, Role], rows: int, size: tuple[int, int, int], prefetch: int) -> None:
    """Refuse batches that, read ahead, are more than the machine's memory."""
    arrays = [array for name, role in roles.items() for array in role.shapes(name, rows, size).values()]
    batch = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
    check_memory(
        f"config.data.batch_size: {rows} crops of {size} voxels, and config.data.prefetch={prefetch} batches more,",
        batch * (prefetch + 1),
        "set a smaller batch_size, patch or prefetch",
    )
