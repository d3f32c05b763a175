"""Checkpoints that help another one to predict: a regression whose stains a diffusion starts from, and an encoder whose
features find the structures that guide it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsjax.errors import UserError
from vsjax.inference.feature_source import complete
from vsjax.inference.results import target_units
from vsjax.models.registry import network_of
from vsjax.runtime.checkpoint import Checkpoint
from vsjax.tasks.registry import make_family

START, FEATURES = "start", "features"  # collections beside a checkpoint's own variables, and flags of `vsjax.predict`


def with_companions(checkpoint: Checkpoint, companions: Mapping[str, Checkpoint]) -> Checkpoint:
    """One checkpoint that holds the weights of all: `config["companions"]` says what each of them is.

    Args:
        checkpoint: of a family that takes companions.
        companions: by what they are for: "start" or "features".

    Raises:
        UserError: it takes none, or one does not fit: other channels, another normalisation, fewer slices.
    """
    if not companions:
        return checkpoint
    if not make_family(checkpoint.description.config).draws:
        raise UserError(f"{checkpoint.path}: draws nothing, so it takes no --start and no --features; leave them out")
    description, variables = checkpoint.description, dict(checkpoint.variables)
    said: dict[str, Any] = {}
    if start := companions.get(START):
        variables[START] = start.variables
        said[START] = {"config": start.description.config, **_as_start(checkpoint, start)}
    if features := companions.get(FEATURES):
        said[FEATURES] = {"config": {**features.description.config, "dtype": "float32"}}
        variables[FEATURES] = complete(network_of(said[FEATURES]["config"]), features)
    config = {**description.config, "companions": said}
    return replace(checkpoint, description=description.model_copy(update={"config": config}), variables=variables)


def _as_start(checkpoint: Checkpoint, start: Checkpoint) -> dict[str, Any]:
    """Which of a regression's stains are the checkpoint's, and what makes its units the checkpoint's own: (factor,
    summand) of each."""
    wanted, found = (c.description.channels["source"] for c in (checkpoint, start))
    if wanted != found:
        raise UserError(
            f"--start {start.path}: sees {', '.join(found.channels)} normalised by {found.normalization.statistic} of "
            f"{found.normalization.scope}, but {checkpoint.path} {', '.join(wanted.channels)} by "
            f"{wanted.normalization.statistic} of {wanted.normalization.scope}; train both with one config.roles.source"
        )
    depths = [make_family(c.description.config).in_stack_depth for c in (checkpoint, start)]
    if depths[0] != depths[1]:
        raise UserError(
            f"--start {start.path}: sees {depths[1]} slices, but {checkpoint.path} {depths[0]}; train it with the same "
            "config.data.patch"
        )
    stains, names = start.description.channels_of("target"), checkpoint.description.channels_of("target")
    if missing := [name for name in names if name not in stains]:
        raise UserError(f"--start {start.path}: does not predict {', '.join(missing)}; train it with these targets")
    if None in (units := [target_units(c) for c in (checkpoint, start)]):
        raise UserError(f"--start {start.path}: it or {checkpoint.path} does not hold the statistics of its targets; "
                        "convert the weights again with --statistics PLATE.zarr")  # fmt: skip
    (own_location, own_scale), (location, scale) = units
    places = [stains.index(name) for name in names]
    factors = scale[places] / own_scale
    summands = (location[places] - own_location) / own_scale
    return {"channels": tuple(places), "units": tuple(zip(factors.tolist(), summands.tolist(), strict=True))}
