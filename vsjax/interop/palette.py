"""Settings of Palette's denoiser from the shapes of its tensors: its checkpoints (`*_Network.pth`, `*_Network_ema.pth`
of https://github.com/Janspiry/Palette-Image-to-Image-Diffusion-Models) store none."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def infer_palette(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every setting that shapes tell; KeyError, IndexError or ZeroDivisionError if the tensors are of no such network.

    Slices are not told from channels: what the network sees and predicts is taken for one slice.
    """
    inner = state["cond_embed.0.weight"].shape[1]
    joined, out = state["input_blocks.0.0.weight"].shape[1], state["out.2.weight"].shape[0]
    blocks = {match[1] for name in state if (match := re.match(r"output_blocks\.(\d+)\.0\.", name))}
    doubling = [name for name in state if re.match(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight$", name)]
    levels = len(doubling) + 1
    per_level = len(blocks) // levels
    firsts = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
    return {
        "in_channels": joined - out,
        "out_channels": out,
        "inner_channels": inner,
        "channel_mults": tuple(state[f"{first}.0.in_layers.2.weight"].shape[0] // inner for first in firsts),
        "res_blocks": per_level - 1,
        "attention_factors": tuple(2**i for i, first in enumerate(firsts) if f"{first}.1.qkv.weight" in state),
    }
