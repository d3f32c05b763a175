"""Encoders of ConvNeXt V2 under timm's and under its authors' names."""

import re

import jax
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.interop.timm import encoder_from_timm
from vsjax.interop.torch_reader import read_checkpoint
from vsjax.interop.viscy import variables_from_state


@pytest.fixture(scope="module")
def trained(shared):
    checkpoint = read_checkpoint(shared / "golden" / "tiny_unext2_atto_pert.ckpt")
    variables = variables_from_state("unext2", checkpoint.tensors, checkpoint.hyper_parameters["model_config"])
    prefix = "model.encoder_stages."
    encoder = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    return encoder, variables["params"]


def as_timm(encoder):
    names = {re.sub(r"^(stem|stages)_(\d)", r"\1.\2", name): tensor for name, tensor in encoder.items()}
    return {
        **names,
        "stem.0.weight": np.zeros((40, 3, 4, 4)),
        "stem.0.bias": np.zeros(40),
        "head.norm.weight": np.zeros(320),
        "head.fc.weight": np.zeros((1000, 320)),
    }


def as_authors(encoder):
    state = {}
    for name, tensor in as_timm(encoder).items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name).replace("head.norm", "norm").replace("head.fc", "head")
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        if "mlp.grn" in name:
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            tensor = tensor.reshape(1, 1, 1, -1)
        state[name] = tensor.reshape(tensor.shape[:2]) if ".pwconv" in name and tensor.ndim == 4 else tensor
    return state


@pytest.mark.parametrize("rename", [dict, as_timm, as_authors])
def test_the_encoder_arrives_whole(trained, rename):
    encoder, params = trained
    backbone, ours = encoder_from_timm(rename(encoder))
    assert backbone == "convnextv2_atto"
    assert set(ours) == {"stem_norm", *(f"encoder_{i}" for i in range(4))}
    jax.tree.map(np.testing.assert_array_equal, ours, {name: params[name] for name in ours})


def test_a_missing_tensor_is_named(trained):
    state = as_timm(trained[0])
    del state["stages.2.blocks.3.mlp.fc1.bias"]
    with pytest.raises(UserError, match=r"1 missing: encoder_stages.stages_2.blocks.3.mlp.fc1.bias"):
        encoder_from_timm(state)


def test_another_network_is_refused():
    with pytest.raises(UserError, match="of no ConvNeXt V2"):
        encoder_from_timm({"layer1.weight": np.zeros(3)})
