"""Vision transformers of DINO, DINOv2 and timm as `models.vit.ViT`: encoders, for features.

Names of timm's models, and those of the authors' files (https://github.com/facebookresearch/dino and .../dinov2).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from vsjax.errors import UserError
from vsjax.interop.viscy import abstract_variables, map_tensors, strip_prefix
from vsjax.models.registry import build_model

HEAD_WIDTH = 64  # of every published DINO and DINOv2 model: no shape tells it
_TELLTALES = ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
# The heads of training and classification, and what stands for hidden patches in training.
_UNUSED = re.compile(r"^(head|dino_head|ibot_head|fc_norm|head_drop|mask_token)\b")


def is_vit(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors are named as those of a vision transformer."""
    return set(_TELLTALES) <= _encoder_state(tensors).keys()


def vit_from_timm(
    tensors: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Settings, variables, and the names of the settings that no shape tells.

    Args:
        tensors: by timm's or the authors' names.
        overrides: settings that replace those that were found.

    Raises:
        UserError: the tensors are of another kind of transformer, or do not fit the settings.
    """
    state = _encoder_state(tensors)
    try:
        found = _find_settings(state)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise UserError(
            f"looks like a ViT of timm's, but lacks {error} or has other shapes; give the whole network"
        ) from error
    places = state["pos_embed"]
    if places.shape[1] == math.isqrt(places.shape[1]) ** 2:  # timm's for registers: the class token has its own within
        state["pos_embed"] = np.concatenate([np.zeros_like(places[:, :1]), places], axis=1)
    settings = {**found, **overrides}
    shapes = flax.traverse_util.flatten_dict(abstract_variables(build_model("vit", **settings)))
    assumed = () if "num_heads" in overrides else ("num_heads",)
    return settings, map_tensors("vit", shapes, state), assumed


def _find_settings(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, inputs, patch, _ = state["patch_embed.proj.weight"].shape
    stored = math.isqrt(state["pos_embed"].shape[1])  # one more than a square with the class token, or a square
    scaled = state.get("blocks.0.ls1.gamma")
    return {
        "in_channels": inputs,
        "patch_size": patch,
        "embed_dim": width,
        "depth": len({match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}),
        "num_heads": max(1, width // HEAD_WIDTH),
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] // width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "init_values": None if scaled is None else 1e-5,  # where training began: without effect on what is loaded
        "reg_tokens": state["reg_token"].shape[1] if "reg_token" in state else 0,
        "img_size": stored * patch,
    }


def _encoder_state(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's tensors under timm's names."""
    state = {name.removeprefix("backbone."): value for name, value in strip_prefix(tensors).items()}
    state = {name.replace("register_tokens", "reg_token"): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not _UNUSED.match(name)}
