"""The data of one experiment, opened and checked from its config."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from vsjax.data.augmentation import AugmentConfig, oversized_patch
from vsjax.data.fovs import FieldOfView, check_uniform, open_fields, split_fields
from vsjax.data.pipeline import Batch, CropReader, evaluation_batches, iterate_from, training_batches
from vsjax.data.sampling import Crop, CropSampler, grid_crops
from vsjax.intensity.normalization import Normalization


@dataclass(frozen=True)
class ExperimentData:
    """Training and validation FOVs with their readers; `config` is the experiment's, `rows` are those of every global
    batch that this process reads."""

    config: ConfigDict
    rows: tuple[int, ...]
    training_fields: list[FieldOfView]
    validation_fields: list[FieldOfView]
    sampler: CropSampler
    training_reader: CropReader
    validation_reader: CropReader
    validation_crops: list[Crop]

    def training(self, step: int) -> Iterator[Batch]:
        """This process's rows of the global batches from `step` on."""
        data = self.config.data
        batches = training_batches(
            self.training_fields,
            self.sampler,
            self.training_reader,
            batch_size=data.batch_size,
            weights=data.weights,
            seed=self.config.seed,
            rows=self.rows,
        )
        return iterate_from(batches, step, threads=data.read_threads, prefetch=data.prefetch)

    def validation(self) -> Iterator[Batch]:
        """This process's rows of the validation batches, always the same."""
        size = self.config.data.batch_size
        return evaluation_batches(self.validation_crops, self.validation_reader, size, self.rows)

    def steps_per_epoch(self) -> int:
        """Steps that see as many patches as the training FOVs have z windows, over all time points: VisCy's epoch,
        in which the published schedules are given."""
        depth = self.config.data.patch[0]
        shapes = [field.position.shape for field in self.training_fields]
        windows = sum(shape[0] * max(shape[2] - depth + 1, 1) for shape in shapes)
        return math.ceil(windows / self.config.data.batch_size)

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of the data it was trained on: channels, pixel size, normalisation, statistics."""
        data, position = self.config.data, self.training_fields[0].position
        roles = {"source": data.source_normalization, "target": data.target_normalization}
        return {
            "source_channels": list(data.source),
            "target_channels": list(data.target),
            "pixel_size_um": [float(size) for size in position.pixel_size_um],
            "normalization": {role: normalization.to_dict() for role, normalization in roles.items()},
            "statistics": {name: position.statistics(name, "dataset") for name in (*data.source, *data.target)},
        }


def open_data(config: ConfigDict, rows: tuple[int, ...] | None = None) -> ExperimentData:
    """Open the plates of `config.data`, split their FOVs and prepare the readers.

    Args:
        config: the experiment's.
        rows: of each batch, those that this process reads; all by default.

    Raises:
        UserError: plates, channels, FOVs, statistics or sizes are not what the config says.
    """
    data = config.data
    fields = open_fields(data.plates, data.source, data.target)
    training, validation = split_fields(fields, data.train_fovs, data.val_fovs, data.val_fraction, config.seed)
    check_uniform([*training, *validation])
    patch = tuple(data.patch)
    read_size = oversized_patch(AugmentConfig.from_config(config.augment), patch)
    # More slices than a stack has cannot be read: the augmentation clamps at the first and the last one.
    depth = min(field.position.shape[2] for field in training)
    read_size = (min(read_size[0], max(depth, patch[0])), *read_size[1:])
    unpredicted = patch[0] - (config.model.get("out_stack_depth") or patch[0])
    z_margins = (unpredicted // 2, unpredicted - unpredicted // 2)
    val_size = tuple(data.val_patch) or patch
    normalizations = [Normalization(**data.source_normalization), Normalization(**data.target_normalization)]
    if validation:
        CropSampler(validation, val_size)  # refuses a validation patch that is larger than an image
    return ExperimentData(
        config=config,
        rows=tuple(range(data.batch_size)) if rows is None else rows,
        training_fields=training,
        validation_fields=validation,
        sampler=CropSampler(training, read_size, data.importance_channel or None, z_margins),
        training_reader=CropReader(training, read_size, *normalizations),
        validation_reader=CropReader(validation, val_size, *normalizations),
        validation_crops=grid_crops(validation, val_size, data.val_patches),
    )
