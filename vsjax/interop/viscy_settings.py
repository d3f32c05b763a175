"""Which network a checkpoint of VisCy's or Palette's holds and with which settings: from the tensors' shapes, and where
those do not tell, from the settings stored beside them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.interop.palette import infer_palette
from vsjax.interop.torch_reader import TorchCheckpoint
from vsjax.interop.viscy import strip_prefix
from vsjax.models.registry import model_settings, network_document
from vsjax.models.unext2 import BACKBONES
from vsjax.schema import parse

State = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FoundSettings:
    """A network's `name` in the registry and its `settings`.

    `assumed` names the settings that neither shapes nor stored settings tell, so that the default was taken: a user
    should know of them.
    """

    name: str
    settings: dict[str, Any]
    assumed: tuple[str, ...]


def find_network(tensors: State) -> str | None:
    """The name of the network that the tensors are of, by one that only it has; None if they are of none."""
    state = strip_prefix(tensors)
    return next((name for name, key in _TELLTALE.items() if key in state), None)


def find_settings(checkpoint: TorchCheckpoint) -> FoundSettings:
    """Name and settings of the network in a checkpoint; shapes win where stored settings contradict them.

    Raises UserError if the tensors are of no network that vsjax knows, or a stored setting is none that it can have.
    """
    state = strip_prefix(checkpoint.tensors)
    name = find_network(checkpoint.tensors)
    if name is None:
        some = ", ".join(map(shorten, list(state)[:3]))
        raise UserError(
            f"{checkpoint.path}: holds none of the networks {', '.join(_TELLTALE)} (its tensors are {some}, ...); "
            "give a checkpoint of VisCy's or Palette's"
        )
    known = model_settings(name)
    config = checkpoint.hyper_parameters.get("model_config")
    stored = _stored_settings(name, config, f"{checkpoint.path}: hyper_parameters.model_config") if config else {}
    if name == "unet2d" and config:
        stored.setdefault("task", "seg")  # VisCy's default, which its tensors do not show
    try:
        settings = {**stored, **_INFER[name](state, stored)}
    except KeyError as error:
        raise UserError(
            f"{checkpoint.path}: looks like {name}, but lacks the tensor {error}; give the whole network"
        ) from error
    except (IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"{checkpoint.path}: looks like {name}, but its tensors have not the shapes of one; fetch it again"
        ) from error
    unstored = () if config else _UNSTORED[name](settings)
    assumed = tuple(key for key in unstored if key not in stored)
    return FoundSettings(name, {**{key: known[key] for key in assumed}, **settings}, assumed)


_TELLTALE = {
    "unext2": "encoder_stages.stem_1.weight",
    "fcmae": "encoder.stem.conv3d.weight",
    "unet25d": "down_conv_block_0.Conv3d_0.weight",
    "unet2d": "down_conv_block_0.Conv2d_0.weight",
    "fnet3d": "_encoder_blocks.0.0.block1.proj.weight",
    "palette": "cond_embed.0.weight",
}
# Settings without parameters of their own.
_UNSTORED: dict[str, Callable[[dict[str, Any]], tuple[str, ...]]] = {
    "unext2": lambda settings: ("head_pool",),
    "fcmae": lambda settings: ("head_conv_pool",) if settings["head_conv"] else (),
    "unet25d": lambda settings: ("residual", "in_stack_depth", "out_stack_depth"),
    "unet2d": lambda settings: ("residual", "task"),
    "fnet3d": lambda settings: ("in_stack_depth",),
    "palette": lambda settings: ("head_channels", "dropout"),
}


def find_backbone(state: State) -> str:
    """The name of the ConvNeXt V2 whose stages are under `encoder_stages.`; UserError if it is none that is known."""
    stages = _count(state, r"encoder_stages\.stages_(\d+)\.")
    depths = tuple(_count(state, rf"encoder_stages\.stages_{i}\.blocks\.(\d+)\.") for i in range(stages))
    dims = tuple(state[f"encoder_stages.stages_{i}.blocks.0.conv_dw.weight"].shape[0] for i in range(stages))
    for name, sizes in BACKBONES.items():
        if sizes == (depths, dims):
            return name
    raise UserError(
        f"the encoder has stages of {depths} blocks and {dims} channels, which is none of {', '.join(BACKBONES)}"
    )


def _stored_settings(name: str, config: Any, where: str) -> dict[str, Any]:
    """What VisCy stored beside the weights, of the settings that vsjax's network has too."""
    remedy = "fetch the file again, or take its state_dict alone and give the settings by --set"
    if not isinstance(config, Mapping):
        raise UserError(f"{where}: is a {type(config).__name__}, not a table of settings; {remedy}")
    known = {key: value for key, value in config.items() if key in model_settings(name)}
    document = parse(network_document(name), {"name": name, **known}, where, remedy)
    return {key: getattr(document, key) for key in known}


def _count(state: State, pattern: str) -> int:
    """How many different numbers stand where `pattern` has its group."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _infer_unext2(state: State, stored: Mapping[str, Any]) -> dict[str, Any]:
    backbone = find_backbone(state)
    dims = BACKBONES[backbone][1]
    stem, mid, last = state["stem.conv.weight"], state["head.conv.0.conv.weight"], state["head.conv.1.weight"]
    out_channels = last.shape[0] // 4
    ratio = mid.shape[0] // last.shape[0]
    width = state[f"decoder.decoder_stages.{len(dims) - 2}.conv.blocks.0.conv_dw.weight"].shape[0]
    return {
        "in_channels": stem.shape[1],
        "out_channels": out_channels,
        "in_stack_depth": dims[0] // stem.shape[0] * stem.shape[2],
        "out_stack_depth": width // (4 * out_channels * ratio) - 2,
        "backbone": backbone,
        "stem_kernel_size": tuple(stem.shape[2:]),
        "decoder_conv_blocks": _count(state, r"decoder\.decoder_stages\.0\.conv\.blocks\.(\d+)\."),
        "decoder_upsample_pre_conv": any(".conv_block." in name for name in state),
        "head_expansion_ratio": ratio,
    }


def _infer_fcmae(state: State, stored: Mapping[str, Any]) -> dict[str, Any]:
    stages = _count(state, r"encoder\.stages\.(\d+)\.")
    dims = tuple(state[f"encoder.stages.{i}.blocks.0.dwconv.weight"].shape[0] for i in range(stages))
    stem = state["encoder.stem.conv3d.weight"]
    depth = dims[0] // stem.shape[0] * stem.shape[2]
    width = state[f"decoder.decoder_stages.{stages - 2}.conv.blocks.0.conv_dw.weight"].shape[0]
    found = {
        "in_channels": stem.shape[1],
        "encoder_blocks": tuple(_count(state, rf"encoder\.stages\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        "dims": dims,
        "stem_kernel_size": tuple(stem.shape[2:]),
        "in_stack_depth": depth,
        "decoder_conv_blocks": _count(state, r"decoder\.decoder_stages\.0\.conv\.blocks\.(\d+)\."),
        "head_conv": "head.conv.1.weight" in state,
    }
    if not found["head_conv"]:
        return {**found, "out_channels": width // (depth * stem.shape[-1] ** 2)}
    last = state["head.conv.1.weight"]
    ratio = state["head.conv.0.conv.weight"].shape[0] // last.shape[0]
    return {**found, "out_channels": last.shape[0] // 4, "head_conv_expansion_ratio": ratio}


def _infer_unet(state: State, conv: str) -> dict[str, Any]:
    blocks = _count(state, r"down_conv_block_(\d+)\.")
    filters = [state[f"down_conv_block_{i}.{conv}_0.weight"].shape[0] for i in range(blocks)]
    bottom = state.get("bottom_transition_block.weight", state.get(f"bottom_transition_block.{conv}_0.weight"))
    if bottom is None:
        raise KeyError("bottom_transition_block.weight")
    return {
        "in_channels": state[f"down_conv_block_0.{conv}_0.weight"].shape[1],
        "out_channels": state[f"terminal_block.{conv}_0.weight"].shape[0],
        "num_blocks": blocks,
        "num_block_layers": _count(state, rf"down_conv_block_0\.{conv}_(\d+)\."),
        "num_filters": (*filters, bottom.shape[0]),
    }


def _infer_unet25d(state: State, stored: Mapping[str, Any]) -> dict[str, Any]:
    lost = state["bottom_transition_block.weight"].shape[2] - 1
    out_depth = stored.get("out_stack_depth", 1)
    return {
        **_infer_unet(state, "Conv3d"),
        "xy_kernel_size": tuple(state["down_conv_block_0.Conv3d_0.weight"].shape[3:]),
        "in_stack_depth": out_depth + lost,
        "out_stack_depth": out_depth,
        "task": "seg" if "terminal_block.batch_norm_0.weight" in state else "reg",
    }


def _infer_unet2d(state: State, stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_infer_unet(state, "Conv2d"),
        "kernel_size": tuple(state["down_conv_block_0.Conv2d_0.weight"].shape[2:]),
    }


def _infer_fnet3d(state: State, stored: Mapping[str, Any]) -> dict[str, Any]:
    depth = _count(state, r"_downsamples\.(\d+)\.")
    return {
        "in_channels": state["inconv.weight"].shape[1],
        "out_channels": state["outconv.weight"].shape[0],
        "depth": depth,
        "mult_chan": state["inconv.weight"].shape[0],
        "in_stack_depth": stored.get("in_stack_depth") or 2**depth,
    }


_INFER: dict[str, Callable[[State, Mapping[str, Any]], dict[str, Any]]] = {
    "unext2": _infer_unext2,
    "fcmae": _infer_fcmae,
    "unet25d": _infer_unet25d,
    "unet2d": _infer_unet2d,
    "fnet3d": _infer_fnet3d,
    "palette": lambda state, _: infer_palette(state),
}
