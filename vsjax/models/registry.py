"""The networks by name, and how to make one from settings that a user wrote."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from vsjax.errors import UserError, shorten
from vsjax.models.dodnet import DoDNet
from vsjax.models.fcmae import FCMAE
from vsjax.models.fnet3d import FNet3D
from vsjax.models.network import Network
from vsjax.models.palette import Palette
from vsjax.models.unet2d import UNet2D
from vsjax.models.unet25d import UNet25D
from vsjax.models.unext2 import UNeXt2
from vsjax.models.vit import ViT
from vsjax.schema import Document, document_of, read_section

MODELS: dict[str, type[Network]] = {
    "unext2": UNeXt2,
    "fcmae": FCMAE,
    "unet25d": UNet25D,
    "unet2d": UNet2D,
    "fnet3d": FNet3D,
    "palette": Palette,
    "vit": ViT,
    "dodnet": DoDNet,
}
COMPUTE_TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@functools.cache
def _document(name: str, kind: type[Network]) -> type[Document]:
    return document_of(kind, leave_out=("parent", "name", "dtype"), name=(Literal[name], ...))


def network_document(name: Any, where: str = "config.model") -> type[Document]:
    """The settings of the network `name`, and the name, as a document: each with the type and range that the field of
    the module says; UserError if the name is not known."""
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f"{where}.name: {shorten(repr(name))} does not exist; choose one of {', '.join(MODELS)}")
    return _document(name, MODELS[name])


def model_settings(name: str) -> dict[str, Any]:
    """Every setting of a network with its default (None where it has none); UserError if the name is not known."""
    fields = network_document(name).model_fields
    return {
        name: field.get_default() if not field.is_required() else None
        for name, field in fields.items()
        if name != "name"
    }


def build_model(name: str, dtype: str = "float32", **settings: Any) -> Network:
    """Make the network `name` that computes in `dtype` (float32 or bfloat16), with settings named as VisCy's.

    Raises UserError, before anything is computed, for a name, compute type or setting that does not exist and for
    values that are out of range or do not fit together.
    """
    if dtype not in COMPUTE_TYPES:
        raise UserError(f"config.dtype: {dtype!r} does not exist; choose one of {', '.join(COMPUTE_TYPES)}")
    document = read_section(network_document(name), {"name": name, **settings}, "config.model")
    values = {field: getattr(document, field) for field in type(document).model_fields if field != "name"}
    model = MODELS[name](dtype=COMPUTE_TYPES[dtype], **values)
    model.check()
    return model


def network_of(config: Mapping[str, Any]) -> Network:
    """The network of an experiment's or a checkpoint's config: its sections `model` and `dtype`; UserError as
    `build_model`."""
    settings = dict(config["model"])
    return build_model(settings.pop("name"), config.get("dtype", "float32"), **settings)
