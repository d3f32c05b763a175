"""Weights of others' PyTorch networks, VisCy's above all, as variables of vsjax's modules: the same numbers under other
names and layouts.

VisCy: https://github.com/mehta-lab/VisCy (BSD-3). The mapping starts from vsjax's own parameter names, so that a tensor
can neither be forgotten nor used twice.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax
import jax
import numpy as np

from vsjax.errors import UserError, shorten
from vsjax.models.network import Network
from vsjax.models.registry import build_model

# vsjax's name (joined by dots, without the last part) -> theirs, rewritten in this order.
_CONVNEXT = [
    (r"^decoder\.stage_(\d+)\.stage\b", r"decoder.decoder_stages.\1.conv"),
    (r"^decoder\.stage_(\d+)\.pre_conv\b", r"decoder.decoder_stages.\1.upsample.pixelshuffle.conv_block"),
    (r"^head\.conv$", "head.conv.0.conv"),
    (r"^head\.project$", "head.conv.1"),
    (r"^head\.slope$", "head.conv.0.adn.A.weight"),
    (r"\.downsample_norm$", ".downsample.0"),
    (r"\.downsample$", ".downsample.1"),
    (r"\.block_(\d+)\b", r".blocks.\1"),
    (r"\.expand$", ".mlp.fc1"),
    (r"\.grn$", ".mlp.grn"),
    (r"\.project$", ".mlp.fc2"),
]
_BLOCKS = [
    (r"^(up|down)_(\d+)\b", r"\1_conv_block_\2"),
    (r"^skip_(\d+)\b", r"skip_conv_layer_\1"),
    (r"^bottom\b", "bottom_transition_block"),
    (r"^terminal\b", "terminal_block"),
    (r"\.norm_(\d+)$", r".batch_norm_\1"),
    (r"\.shortcut$", ".resid_conv"),
]
_NAMES = {
    "unext2": [
        (r"^stem_norm$", "encoder_stages.stem_1"),
        (r"^encoder_(\d+)\b", r"encoder_stages.stages_\1"),
        *_CONVNEXT,
        (r"\.depthwise$", ".conv_dw"),
    ],
    "fcmae": [
        (r"^stem\b", "encoder.stem"),
        (r"^encoder_(\d+)\b", r"encoder.stages.\1"),
        *_CONVNEXT,
        (r"^(encoder\.stages\..*)\.depthwise$", r"\1.dwconv"),
        (r"^(encoder\.stages\..*)\.norm$", r"\1.layernorm"),
        (r"\.depthwise$", ".conv_dw"),
    ],
    "unet25d": [*_BLOCKS, (r"\.conv_(\d+)$", r".Conv3d_\1")],
    "unet2d": [*_BLOCKS, (r"\.conv_(\d+)$", r".Conv2d_\1")],
    "fnet3d": [
        (r"^in_conv$", "inconv"),
        (r"^out_conv$", "outconv"),
        (r"^(encoder|decoder)_(\d+)\b", r"_\1_blocks.\2.0"),
        (r"^bottleneck\b", "bottleneck.block"),
        (r"^down_(\d+)$", r"_downsamples.\1"),
        (r"^up_(\d+)$", r"_upsamples.\1"),
        (r"\.conv_0$", ".block1.proj"),
        (r"\.conv_1$", ".block2.proj"),
        (r"\.norm_0$", ".block1.norm"),
        (r"\.norm_1$", ".block2.norm"),
    ],
    "palette": [
        (r"^condition\.gamma_0$", "cond_embed.0"),
        (r"^condition\.gamma_1$", "cond_embed.2"),
        (r"^input_0$", "input_blocks.0.0"),
        (r"^(input|output)_(\d+)\b", r"\1_blocks.\2"),
        (r"^middle\b", "middle_block"),
        (r"^out_norm$", "out.0"),
        (r"^out$", "out.2"),
        (r"\.layer_(\d+)\b", r".\1"),
        (r"\.norm_0$", ".in_layers.0"),
        (r"\.conv_0$", ".in_layers.2"),
        (r"\.film$", ".emb_layers.1"),
        (r"\.norm_1$", ".out_layers.0"),
        (r"\.conv_1$", ".out_layers.3"),
        (r"\.shortcut$", ".skip_connection"),
        (r"\.proj$", ".proj_out"),
    ],
    "vit": [
        (r"^embed\.patches$", "patch_embed.proj"),
        (r"^embed\.", ""),
        (r"^block_(\d+)\b", r"blocks.\1"),
        (r"^(blocks\.\d+)\.(qkv|proj)$", r"\1.attn.\2"),
        (r"\.(fc1|fc2)$", r".mlp.\1"),
    ],
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Counts of PyTorch's batch norms, of no use for running averages with a fixed momentum.
_IGNORED = re.compile(r"(^|\.)num_batches_tracked$")


def strip_prefix(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's own tensors: what Lightning keeps under `model.`, without the `_orig_mod.` of `torch.compile`, and
    what Palette keeps under `denoise_fn.`, without the schedule beside it."""
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    for prefix in ("model.", "module.", "denoise_fn."):
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        state = inner or state
    return {name: value for name, value in state.items() if not _IGNORED.search(name)}


def variables_from_state(name: str, state: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Variables for `build_model(name, **settings)` from a VisCy `state_dict`.

    Args:
        name: a network of vsjax's registry.
        state: tensors by VisCy's names, with or without the `model.` that Lightning puts before them.
        settings: the network's settings.

    Raises:
        UserError: if a tensor is missing, left over or of another shape (the one line names the first of them), or
            the settings make no network.
    """
    model = build_model(name, **settings)
    try:
        shapes = flax.traverse_util.flatten_dict(abstract_variables(model))
    except (TypeError, ValueError, ZeroDivisionError, flax.errors.FlaxError) as error:
        raise UserError(
            f"{name} cannot be made with the settings that these weights have ({shorten(str(error), 200)}); "
            "give the settings that they were trained with"
        ) from error
    return map_tensors(name, shapes, strip_prefix(state))


def map_tensors(
    name: str, shapes: Mapping[tuple[str, ...], Any], state: Mapping[str, np.ndarray], of: str = "model"
) -> dict[str, Any]:
    """Fill every variable in `shapes` (by path, `params` first) from VisCy's tensors; UserError unless all fit."""
    variables, missing, misshapen = {}, [], []
    left = set(state)
    for path, wanted in shapes.items():
        theirs = torch_name(name, path[1:])
        if theirs not in state:
            missing.append(theirs)
            continue
        left.discard(theirs)
        value = _our_layout(name, path[1:], state[theirs], wanted.shape)
        if value is None:
            misshapen.append(f"{theirs} {tuple(state[theirs].shape)} for {wanted.shape}")
        else:
            with np.errstate(over="ignore"):  # what float32 does not hold is found infinite afterwards
                variables[path] = np.ascontiguousarray(value, dtype=np.float32)
    faults = [("missing", missing), ("unexpected", sorted(left)), ("of another shape", misshapen)]
    parts = [f"{len(names)} {what}: {_listed(names)}" for what, names in faults if names]
    if parts:
        raise UserError(
            f"these weights do not fit {of} {name} with these settings ({'; '.join(parts)}); "
            "give the settings that they were trained with"
        )
    return flax.traverse_util.unflatten_dict(variables)


def _listed(names: list[str], at_most: int = 4) -> str:
    more = [f"and {len(names) - at_most} more"] if len(names) > at_most else []
    return ", ".join([shorten(name) for name in names[:at_most]] + more)


def abstract_variables(model: Network) -> dict[str, Any]:
    """Shapes of a network's variables, without computing them."""
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *model.example(model.divisor[1:]))


def torch_name(name: str, path: tuple[str, ...]) -> str:
    """VisCy's name of the parameter that vsjax calls `path` in the network `name`."""
    *module, leaf = path
    joined = ".".join(module if leaf in _LEAVES else path)
    for pattern, replacement in _NAMES[name]:
        joined = re.sub(pattern, replacement, joined)
    return f"{joined}.{_LEAVES[leaf]}" if leaf in _LEAVES else joined


def _our_layout(name: str, path: tuple[str, ...], tensor: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray | None:
    """Bring `[out, in, *space]` to `[*space, in, out]`; None if the shape is not the wanted one."""
    if path[-1] == "kernel" and tensor.ndim >= 2:
        if name == "fnet3d" and path[-2].startswith("up_"):
            # A transposed convolution: PyTorch's kernel is [in, out, ...] and runs backwards.
            tensor = np.flip(np.moveaxis(tensor, (0, 1), (-2, -1)), axis=(0, 1, 2))
        elif path[-2] == "depthwise":
            tensor = np.moveaxis(tensor, 0, -1)[0] if tensor.shape[1] == 1 else tensor
        else:
            tensor = np.moveaxis(tensor, (0, 1), (-1, -2))
            if len(wanted) == 2 and tensor.shape[:-2] == (1,) * (tensor.ndim - 2):
                tensor = tensor.reshape(tensor.shape[-2:])
    return tensor if tensor.shape == wanted else None
