"""Which fields of view (FOVs) an experiment uses: opened, checked, split into training and validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vsjax.errors import UserError
from vsjax.plates.position import Position
from vsjax.plates.reader import open_plate


@dataclass(frozen=True)
class FieldOfView:
    """One position of a plate with the channels that the experiment reads from it.

    Attributes:
        position: the opened position.
        source, target: channel indices.
        plate: which of the experiment's plates it is on.
    """

    position: Position
    source: tuple[int, ...]
    target: tuple[int, ...]
    plate: int


def open_fields(plates: Sequence[str], source: Sequence[str], target: Sequence[str]) -> list[FieldOfView]:
    """Every FOV of the plates, with the named channels looked up in each.

    Raises:
        UserError: no plate is named, a plate does not open, or a channel does not exist.
    """
    if not plates:
        raise UserError("config.data.plates is empty; set --config.data.plates=PLATE.zarr")
    fields = []
    for number, url in enumerate(plates):
        for position in open_plate(url).positions():
            channels = [tuple(position.channel_index(name) for name in names) for names in (source, target)]
            fields.append(FieldOfView(position, *channels, number))
    return fields


def split_fields(
    fields: Sequence[FieldOfView],
    train: Sequence[str],
    validation: Sequence[str],
    validation_fraction: float,
    seed: int,
) -> tuple[list[FieldOfView], list[FieldOfView]]:
    """Split by FOV, never by crop: neighbouring crops share cells.

    Named FOVs (`A/4/0`, or a well `A/4` for all of its FOVs) go where they are named. With `train` empty, everything
    that is not in `validation` trains; with both empty, a fraction of each plate drawn by the seed validates.

    Raises:
        UserError: a name matches no FOV, a FOV is in both lists, or nothing is left to train on.
    """
    _check_names(fields, "config.data.train_fovs", train)
    _check_names(fields, "config.data.val_fovs", validation)
    if train or validation:
        held_back = [field for field in fields if _named(field, validation)]
        if both := [field for field in held_back if _named(field, train)]:
            raise UserError(
                f"config.data.train_fovs and val_fovs both name {both[0].position.name}; take it out of one of them"
            )
        training = [f for f in fields if (_named(f, train) if train else not _named(f, validation))]
    else:
        training, held_back = _split_by_seed(fields, validation_fraction, seed)
    if not training:
        raise UserError("config.data: no FOV is left for training; name fewer in val_fovs or lower val_fraction")
    return training, held_back


def check_uniform(fields: Sequence[FieldOfView]) -> None:
    """Refuse FOVs of one plate that differ in pixel type or shape.

    Raises:
        UserError: naming the first two that differ.
    """
    first: dict[int, FieldOfView] = {}
    for field in fields:
        reference = first.setdefault(field.plate, field).position
        for name in ("dtype", "shape"):
            expected, found = getattr(reference, name), getattr(field.position, name)
            if expected != found:
                raise UserError(
                    f"{field.position.url}: {name} {found} differs from {expected} of FOV {reference.name} on the same "
                    "plate; convert it, or name the FOVs that agree in config.data.train_fovs and val_fovs"
                )


def _split_by_seed(
    fields: Sequence[FieldOfView], fraction: float, seed: int
) -> tuple[list[FieldOfView], list[FieldOfView]]:
    if not 0 <= fraction < 1:
        raise UserError(f"config.data.val_fraction={fraction} must be at least 0 and below 1")
    held_back = []
    for plate in sorted({field.plate for field in fields}):
        members = [field for field in fields if field.plate == plate]
        count = round(fraction * len(members))
        chosen = np.random.default_rng([seed, plate]).permutation(len(members))[:count]
        held_back += [members[index] for index in sorted(chosen)]
    return [field for field in fields if field not in held_back], held_back


def _named(field: FieldOfView, names: Sequence[str]) -> bool:
    return any(field.position.name == name or field.position.name.startswith(f"{name}/") for name in names)


def _check_names(fields: Sequence[FieldOfView], where: str, names: Sequence[str]) -> None:
    for name in names:
        if not any(_named(field, (name,)) for field in fields):
            existing = ", ".join(field.position.name for field in fields[:8])
            raise UserError(
                f"{where}: no FOV or well is named {name!r}; there are {existing}{' ...' * (len(fields) > 8)}"
            )
