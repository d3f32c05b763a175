"""Which fields of view (FOVs) an experiment uses: opened, checked, split into training and validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vsjax.errors import UserError
from vsjax.plates.position import Position
from vsjax.plates.reader import open_plate


@dataclass(frozen=True)
class FieldOfView:
    """One position of a plate.

    Attributes:
        position: the opened position.
        plate: which of the experiment's plates it is on.
    """

    position: Position
    plate: int


def open_fovs(plates: Sequence[str]) -> list[FieldOfView]:
    """Every FOV of the plates.

    Raises:
        UserError: no plate is named, or a plate does not open.
    """
    if not plates:
        raise UserError("config.data.plates is empty; set --config.data.plates=PLATE.zarr")
    return [
        FieldOfView(position, number) for number, url in enumerate(plates) for position in open_plate(url).positions()
    ]


def split_fovs(
    fovs: Sequence[FieldOfView],
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
    _check_names(fovs, "config.data.train_fovs", train)
    _check_names(fovs, "config.data.val_fovs", validation)
    if train or validation:
        held_back = [fov for fov in fovs if _named(fov, validation)]
        if both := [fov for fov in held_back if _named(fov, train)]:
            raise UserError(
                f"config.data.train_fovs and val_fovs both name {both[0].position.name}; take it out of one of them"
            )
        training = [f for f in fovs if (_named(f, train) if train else not _named(f, validation))]
    else:
        training, held_back = _split_by_seed(fovs, validation_fraction, seed)
    if not training:
        raise UserError("config.data: no FOV is left for training; name fewer in val_fovs or lower val_fraction")
    return training, held_back


def check_uniform(fovs: Sequence[FieldOfView]) -> None:
    """Refuse FOVs of one plate that differ in pixel type or shape.

    Raises:
        UserError: naming the first two that differ.
    """
    first: dict[int, FieldOfView] = {}
    for fov in fovs:
        reference = first.setdefault(fov.plate, fov).position
        for name in ("dtype", "shape"):
            expected, found = getattr(reference, name), getattr(fov.position, name)
            if expected != found:
                raise UserError(
                    f"{fov.position.url}: {name} {found} differs from {expected} of FOV {reference.name} on the same "
                    "plate; convert it, or name the FOVs that agree in config.data.train_fovs and val_fovs"
                )


def _split_by_seed(
    fovs: Sequence[FieldOfView], fraction: float, seed: int
) -> tuple[list[FieldOfView], list[FieldOfView]]:
    if not 0 <= fraction < 1:
        raise UserError(f"config.data.val_fraction={fraction} must be at least 0 and below 1")
    held_back = []
    for plate in sorted({fov.plate for fov in fovs}):
        members = [fov for fov in fovs if fov.plate == plate]
        count = round(fraction * len(members))
        chosen = np.random.default_rng([seed, plate]).permutation(len(members))[:count]
        held_back += [members[index] for index in sorted(chosen)]
    return [fov for fov in fovs if fov not in held_back], held_back


def _named(fov: FieldOfView, names: Sequence[str]) -> bool:
    return any(fov.position.name == name or fov.position.name.startswith(f"{name}/") for name in names)


def _check_names(fovs: Sequence[FieldOfView], where: str, names: Sequence[str]) -> None:
    for name in names:
        if not any(_named(fov, (name,)) for fov in fovs):
            existing = ", ".join(fov.position.name for fov in fovs[:8])
            raise UserError(
                f"{where}: no FOV or well is named {name!r}; there are {existing}{' ...' * (len(fovs) > 8)}"
            )
