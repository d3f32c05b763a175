"""Transformers of timm, DINO and DINOv2: their numbers, their names, and that they predict nothing."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import vsjax
from vsjax.convert import main
from vsjax.errors import UserError
from vsjax.interop.conversion import convert_file
from vsjax.interop.torch_reader import read_checkpoint
from vsjax.models.registry import build_model
from vsjax.runtime.checkpoint import load_checkpoint

HEADS = {"num_heads": 4}


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_dino", "56x56"), ("vit_tiny_dinov2", "56x56"), ("vit_tiny_dinov2", "84x70")]
)
def test_reproduces_the_authors_keys_and_features(shared, name, size):
    found = convert_file(shared / "golden" / f"{name}.pth", overrides=HEADS)
    wanted = json.loads((shared / "golden" / "index2.json").read_text())[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(found.variables)) == wanted["n_params"]
    golden = np.load(shared / "golden" / f"{name}.npz")
    model, x = build_model("vit", **found.settings), np.moveaxis(golden[f"x_{size}"], 1, -1)[:, None]
    keys, features = jax.jit(model.apply)(found.variables, x)
    for ours, theirs in ((keys, golden[f"keys_{size}"]), (features, golden[f"features_{size}"])):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def tensors_of(shared, name="vit_tiny_dinov2"):
    return {
        key: np.ascontiguousarray(t) for key, t in read_checkpoint(shared / "golden" / f"{name}.pth").tensors.items()
    }


def test_a_checkpoint_of_it_is_an_encoder_that_predicts_nothing(shared, tmp_path, capsys):
    """As the authors' training stores it, with heads and what stands for hidden patches."""
    state = {f"module.backbone.{key}": tensor for key, tensor in tensors_of(shared).items()}
    state |= {"module.backbone.mask_token": np.zeros((1, 48)), "module.dino_head.mlp.0.weight": np.zeros((4, 48))}
    save_file(state, tmp_path / "teacher.safetensors")
    main(
        ["--input", str(tmp_path / "teacher.safetensors"), "--output", str(tmp_path / "model"), "--set", "num_heads=4"]
    )
    assert "which gives features and predicts nothing" in capsys.readouterr().out
    stored = load_checkpoint(tmp_path / "model")
    assert stored.description.parts == "encoder"
    assert (stored.description.config["model"]["name"], stored.description.config["model"]["num_heads"]) == ("vit", 4)
    whole = convert_file(shared / "golden" / "vit_tiny_dinov2.pth", overrides=HEADS)
    jax.tree.map(np.testing.assert_array_equal, stored.variables, whole.variables)
    with pytest.raises(UserError, match=r"holds only the encoder of vit, which predicts nothing; take it for features"):
        vsjax.load(tmp_path / "model")


def test_the_number_of_heads_is_assumed(shared):
    """No shape tells it: 64 features each, as every published one has."""
    found = convert_file(shared / "golden" / "vit_tiny_dino.pth")
    assert found.assumed == ("num_heads",)
    assert found.settings["num_heads"] == 1
    with pytest.raises(
        UserError, match=r"vit_tiny_dino.pth: model.embed_dim = 48 is not divisible by model.num_heads = 5"
    ):
        convert_file(shared / "golden" / "vit_tiny_dino.pth", overrides={"num_heads": 5})


def test_registers_by_both_names(shared, tmp_path):
    """timm adds the class token's position to the token, the authors store it beside the patches'."""
    theirs = tensors_of(shared)
    theirs["register_tokens"] = np.random.default_rng(0).normal(size=(1, 2, 48)).astype(np.float32)
    timm = {key: value for key, value in theirs.items() if key != "register_tokens"}
    timm["reg_token"] = theirs["register_tokens"]
    timm["cls_token"] = theirs["cls_token"] + theirs["pos_embed"][:, :1]
    timm["pos_embed"] = np.ascontiguousarray(theirs["pos_embed"][:, 1:])
    x = np.random.default_rng(1).normal(size=(1, 1, 28, 42, 3)).astype(np.float32)
    outputs = []
    for name, state in (("theirs", theirs), ("timm", timm)):
        save_file(state, tmp_path / f"{name}.safetensors")
        found = convert_file(tmp_path / f"{name}.safetensors", overrides=HEADS)
        assert (found.settings["reg_tokens"], found.settings["img_size"]) == (2, 56)
        outputs.append(jax.jit(build_model("vit", **found.settings).apply)(found.variables, x)[0])
    assert outputs[0].shape == (1, 1 + 2 + 2 * 3, 48)
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("pos_embed"), r"looks like a ViT of timm's, but lacks 'pos_embed'"),
        (lambda t: t.pop("blocks.1.norm1.bias"), r"1 missing: blocks.1.norm1.bias"),
        (lambda t: t.update({"blocks.0.mlp.w12.weight": np.zeros((8, 8))}), r"1 unexpected: blocks.0.mlp.w12.weight"),
        (lambda t: t.update(pos_embed=t["pos_embed"][:, :11]), r"1 of another shape: pos_embed \(1, 11, 48\)"),
    ],
)
def test_other_transformers_are_refused(shared, tmp_path, change, says):
    tensors = tensors_of(shared)
    change(tensors)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"a.safetensors: .*{says}"):
        convert_file(tmp_path / "a.safetensors", overrides=HEADS)
