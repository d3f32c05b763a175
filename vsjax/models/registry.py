"""The networks by name, and how to make one from settings that a user wrote."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vsjax.errors import UserError
from vsjax.models.fcmae import FCMAE
from vsjax.models.fnet3d import FNet3D
from vsjax.models.network import Network
from vsjax.models.unet2d import UNet2D
from vsjax.models.unet25d import UNet25D
from vsjax.models.unext2 import UNeXt2

MODELS: dict[str, type[Network]] = {
    "unext2": UNeXt2,
    "fcmae": FCMAE,
    "unet25d": UNet25D,
    "unet2d": UNet2D,
    "fnet3d": FNet3D,
}
COMPUTE_TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def model_settings(name: str) -> dict[str, Any]:
    """Every setting of a network with its default (None where it has none); UserError if the name is not known."""
    if name not in MODELS:
        raise UserError(f"model.name = {name!r} does not exist; choose one of {', '.join(MODELS)}")
    return {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(MODELS[name])
        if field.name not in ("parent", "name", "dtype")
    }


def build_model(name: str, dtype: str = "float32", **settings: Any) -> Network:
    """Make the network `name` that computes in `dtype` (float32 or bfloat16), with settings named as VisCy's.

    Raises UserError, before anything is computed, for a name, compute type or setting that does not exist and for
    values that do not fit together.
    """
    known = model_settings(name)
    if dtype not in COMPUTE_TYPES:
        raise UserError(f"dtype = {dtype!r} does not exist; choose one of {', '.join(COMPUTE_TYPES)}")
    for field in settings:
        if field not in known:
            raise UserError(f"model.{field} is no setting of {name}; it has {', '.join(known)}")
    model = MODELS[name](dtype=COMPUTE_TYPES[dtype], **{field: _as_tuples(value) for field, value in settings.items()})
    model.check()
    return model


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, as they were before a file of JSON."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def network_of(config: Mapping[str, Any]) -> Network:
    """The network of an experiment's or a checkpoint's config: its sections `model` and `dtype`; UserError as
    `build_model`."""
    settings = dict(config["model"])
    return build_model(settings.pop("name"), config["dtype"], **settings)
