"""Any file of weights that vsjax can read, as the variables of one of its networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.interop.published import find_recipe
from vsjax.interop.timm import encoder_from_timm, is_backbone
from vsjax.interop.torch_reader import TorchCheckpoint, read_checkpoint
from vsjax.interop.viscy import variables_from_state
from vsjax.interop.viscy_settings import find_network, find_settings
from vsjax.interop.vit import is_vit, vit_from_timm
from vsjax.models.registry import MODELS, build_model, model_settings, network_document
from vsjax.schema import parse


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network with weights from elsewhere.

    Attributes:
        name: in vsjax's registry.
        settings: every setting of it.
        variables: `{"params": ..., "batch_stats": ...}` of NumPy arrays.
        assumed: settings that neither the weights nor what is stored beside them tell: the published
            model's of that shape were taken, or else defaults.
        parts: "all", or "encoder" where the file holds no more of the network.
    """

    name: str
    settings: dict[str, Any]
    variables: dict[str, Any]
    assumed: tuple[str, ...]
    parts: str


def convert_file(
    path: str | Path, model: str | None = None, overrides: Mapping[str, Any] | None = None
) -> ConvertedNetwork:
    """Read a network of VisCy's or Palette's, a ConvNeXt V2 backbone or a ViT: a Lightning checkpoint, state_dict or
    safetensors.

    Args:
        path: the file; nothing in it is executed.
        model: the network that it must hold; by default whichever it does.
        overrides: settings that replace those that were found.

    Raises:
        UserError: the file cannot be read, is of no known network or of another, or its weights do not fit the settings
            or are not finite.
    """
    if model is not None and model not in MODELS:
        raise UserError(f"--model {shorten(model)}: does not exist; choose one of {', '.join(MODELS)}")
    checkpoint = read_checkpoint(path)
    for tensor, value in checkpoint.tensors.items():
        if value.size == 0:
            raise UserError(
                f"{path}: tensor {shorten(tensor)}: its shape {value.shape} holds no numbers; fetch it again"
            )
    name, convert = _find_kind(checkpoint.tensors)
    if name is None:
        some = ", ".join(map(shorten, list(checkpoint.tensors)[:3]))
        raise UserError(
            f"{path}: holds no network that vsjax knows (its tensors are {some}, ...); "
            "give a checkpoint of VisCy's or Palette's, a ConvNeXt V2 backbone, or a ViT of DINO's or timm's"
        )
    if model not in (None, name):
        raise UserError(f"{path}: holds the network {name}, not {model}; leave --model out or give another file")
    unknown = set(overrides or {}) - set(model_settings(name))
    if unknown:
        raise UserError(f"--set {min(unknown)}: is no setting of {name}; it has {', '.join(model_settings(name))}")
    parse(network_document(name), {"name": name, **(overrides or {})}, "--set", "give another value")
    try:
        converted = convert(checkpoint, dict(overrides or {}))
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    _check_finite(path, converted.variables)
    return converted


def _find_kind(tensors: Mapping[str, np.ndarray]) -> tuple[str | None, Callable[..., ConvertedNetwork]]:
    """The network that the tensors are of, None if of none, and what converts it."""
    name = find_network(tensors)
    if name is None and is_backbone(tensors):
        return "unext2", _convert_backbone
    if name is None and is_vit(tensors):
        return "vit", _convert_vit
    return name, _convert_network


def _convert_network(checkpoint: TorchCheckpoint, overrides: dict[str, Any]) -> ConvertedNetwork:
    found = find_settings(checkpoint)
    # VisCy's files of UNeXt2 do not store the settings: what the published model had is likelier than a default.
    unstored = find_recipe(found.name, found.settings).unstored
    published = {name: value for name, value in unstored.items() if name in found.assumed}
    settings = {**model_settings(found.name), **found.settings, **published, **overrides}
    where = f"{checkpoint.path}: settings of {found.name}, as its shapes have them"
    parse(network_document(found.name), {"name": found.name, **settings}, where, "fetch it again")
    variables = variables_from_state(found.name, checkpoint.tensors, settings)
    assumed = tuple(name for name in found.assumed if name not in overrides)
    return ConvertedNetwork(found.name, settings, variables, assumed, "all")


def _convert_backbone(checkpoint: TorchCheckpoint, overrides: dict[str, Any]) -> ConvertedNetwork:
    """The encoder alone: decoder, head and the stem that sees the image are not in the file, and random ones would
    look like trained ones."""
    backbone, params = encoder_from_timm(checkpoint.tensors)
    settings = {**model_settings("unext2"), **overrides, "backbone": backbone}
    build_model("unext2", **settings)
    return ConvertedNetwork("unext2", settings, {"params": params}, (), "encoder")


def _convert_vit(checkpoint: TorchCheckpoint, overrides: dict[str, Any]) -> ConvertedNetwork:
    found, variables, assumed = vit_from_timm(checkpoint.tensors, overrides)
    return ConvertedNetwork("vit", {**model_settings("vit"), **found}, variables, assumed, "encoder")


def _check_finite(path: str | Path, variables: dict[str, Any]) -> None:
    for name, array in flax.traverse_util.flatten_dict(variables, sep="/").items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds NaN or infinite numbers, so its training diverged; take another one")
