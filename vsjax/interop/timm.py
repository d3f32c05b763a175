"""ConvNeXt V2 backbones, trained on ImageNet or as masked autoencoders, as the encoder of UNeXt2.

Names of timm's models, and those of the ConvNeXt V2 authors' files (https://github.com/facebookresearch/ConvNeXt-V2).
The weights themselves are CC BY-NC 4.0.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.interop.viscy import abstract_variables, map_tensors, strip_prefix
from vsjax.interop.viscy_settings import find_backbone
from vsjax.models.registry import build_model

# The authors' names -> timm's.
_AUTHORS = [
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
]
_TELLTALE = "encoder_stages.stages_0.blocks.0.conv_dw.weight"
# The classifier, and the first convolution, which UNeXt2 replaces by its stem.
_UNUSED = re.compile(r"^(head|norm|stem\.0|stem_0|decoder|proj|pred|mask_token)\b")


def is_backbone(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors are named as those of a ConvNeXt V2, of whatever size."""
    return _TELLTALE in _encoder_state(tensors)


def encoder_from_timm(tensors: Mapping[str, np.ndarray]) -> tuple[str, dict[str, Any]]:
    """The backbone's name and UNeXt2's encoder parameters (`stem_norm`, `encoder_0`, ...), to be merged into `params`.

    Raises UserError if the tensors are no ConvNeXt V2 of a known size, or do not fit one exactly.
    """
    state = _encoder_state(tensors)
    if _TELLTALE not in state:
        some = ", ".join(map(shorten, list(tensors)[:3]))
        raise UserError(f"the tensors ({some}, ...) are of no ConvNeXt V2; give one of timm's")
    try:
        backbone = find_backbone(state)
    except (KeyError, IndexError) as error:
        raise UserError(f"its ConvNeXt V2 lacks a stage, or {error}; give a whole one") from error
    model = build_model("unext2", backbone=backbone)
    shapes = flax.traverse_util.flatten_dict(abstract_variables(model))
    modules = set(model.parts["encoder"]) - {"stem"}  # which sees the image in three dimensions
    encoder = {path: shape for path, shape in shapes.items() if path[1] in modules}
    return backbone, map_tensors("unext2", encoder, state, of="the encoder of")["params"]


def _encoder_state(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's tensors under the names that VisCy's UNeXt2 has for them."""
    state = {_timm_name(name): value for name, value in strip_prefix(tensors).items()}
    state = {name: value for name, value in state.items() if not _UNUSED.match(name)}
    state = {re.sub(r"^(stem|stages)[._](\d)", r"encoder_stages.\1_\2", name): value for name, value in state.items()}
    return {name: value.reshape(-1) if ".grn." in name else value for name, value in state.items()}


def _timm_name(name: str) -> str:
    name = name.removeprefix("encoder.")
    for pattern, replacement in _AUTHORS:
        name = re.sub(pattern, replacement, name)
    return name
