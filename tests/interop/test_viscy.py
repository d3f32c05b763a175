"""VisCy's weights must give VisCy's numbers, and the settings must come out of the tensors' shapes."""

import json

import flax
import jax
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.interop.torch_reader import TorchCheckpoint, read_checkpoint
from vsjax.interop.viscy import torch_name, variables_from_state
from vsjax.interop.viscy_settings import find_settings
from vsjax.models.fcmae import enlarge_mask
from vsjax.models.registry import build_model

GOLDEN = {
    "tiny_unext2_atto": "unext2",
    "tiny_fcmae_2d_pretrain": "fcmae",
    "tiny_fcmae_3d_pretrain": "fcmae",
    "tiny_unet25d": "unet25d",
    "tiny_unet3d": "fnet3d",
}


def load(shared, name):
    """Network, variables and golden arrays (channels last)."""
    checkpoint = read_checkpoint(shared / "golden" / f"{name}_pert.ckpt")
    found = find_settings(checkpoint)
    assert found.name == GOLDEN[name]
    assert found.assumed == ()
    variables = variables_from_state(found.name, checkpoint.tensors, found.settings)
    arrays = np.load(shared / "golden" / f"{name}.npz")
    return build_model(found.name, **found.settings), variables, arrays


def relative_error(ours, theirs):
    """Largest difference between channels-last ours and PyTorch's channels-first theirs, over their largest value."""
    theirs = np.moveaxis(theirs, 1, -1)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", GOLDEN)
def test_reproduces_the_authors_output(shared, name):
    model, variables, golden = load(shared, name)
    x = np.moveaxis(golden["x"], 1, -1)
    y = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
    assert relative_error(y, golden["y_pert"]) < 1e-5


@pytest.mark.parametrize("name", ["tiny_fcmae_2d_pretrain", "tiny_fcmae_3d_pretrain"])
def test_reproduces_the_authors_masked_output_and_loss(shared, name):
    model, variables, golden = load(shared, name)
    x, mask = np.moveaxis(golden["x"], 1, -1), golden["mask_lowres"][:, 0]
    y = jax.jit(lambda v, x, mask: model.apply(v, x, train=False, mask=mask))(variables, x, mask)
    assert relative_error(y, golden["masked_y_pert"]) < 1e-5
    full = np.asarray(enlarge_mask(mask, model.mask_stride))
    np.testing.assert_array_equal(full, golden["mask"][:, 0])
    squares = np.square(np.asarray(y) - x).mean(axis=(1, 4))
    np.testing.assert_allclose((squares * full).sum() / full.sum(), golden["masked_mse_pert"], rtol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_settings_are_found_without_the_stored_ones(shared, name):
    """All that shapes can tell; what they cannot is named."""
    checkpoint = read_checkpoint(shared / "golden" / f"{name}_pert.ckpt")
    stored = json.loads((shared / "golden" / "index.json").read_text())[name]["model_config"]
    found = find_settings(TorchCheckpoint(checkpoint.path, checkpoint.tensors))
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    wrong = {key for key, value in told.items() if found.settings.get(key) != value}
    assert wrong <= set(found.assumed)
    assert set(found.assumed) <= {"head_pool", "residual", "in_stack_depth", "out_stack_depth"}


def test_weights_that_do_not_fit_are_listed_by_name(shared):
    checkpoint = read_checkpoint(shared / "golden" / "tiny_unext2_atto_pert.ckpt")
    tensors = dict(checkpoint.tensors)
    tensors["model.stem.convolution.weight"] = tensors.pop("model.stem.conv.weight")
    tensors["model.head.conv.1.bias"] = tensors["model.head.conv.1.bias"][:-1]
    with pytest.raises(UserError) as caught:
        variables_from_state("unext2", tensors, checkpoint.hyper_parameters["model_config"])
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing: stem.conv.weight" in message
    assert "1 unexpected: stem.convolution.weight" in message
    assert "1 of another shape: head.conv.1.bias (7,) for (8,)" in message


def test_another_softwares_weights_are_refused(tmp_path):
    foreign = TorchCheckpoint(tmp_path / "resnet.pth", {"layer1.0.conv1.weight": np.zeros((1, 1, 3, 3))})
    with pytest.raises(UserError, match=r"resnet.pth: holds none of the networks .*layer1.0.conv1.weight"):
        find_settings(foreign)


def test_a_network_cut_short_is_refused(shared):
    checkpoint = read_checkpoint(shared / "golden" / "tiny_fcmae_3d_pretrain_pert.ckpt")
    encoder = {name: value for name, value in checkpoint.tensors.items() if ".encoder." in name}
    with pytest.raises(UserError, match=r"looks like fcmae, but lacks .*decoder_stages"):
        find_settings(TorchCheckpoint(checkpoint.path, encoder))


@pytest.mark.parametrize("name", ["tiny_unext2_atto", "tiny_fcmae_3d_pretrain", "tiny_unet25d", "tiny_unet3d"])
def test_no_two_parameters_share_a_name(shared, name):
    _, variables, _ = load(shared, name)
    paths = list(flax.traverse_util.flatten_dict(variables))
    assert len({torch_name(GOLDEN[name], path[1:]) for path in paths}) == len(paths)
