"""Palette's own weights must give the authors' numbers, and its settings must come out of the tensors' shapes."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vsjax.convert import main
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings, change_sampler
from vsjax.interop.conversion import convert_file
from vsjax.interop.torch_reader import TorchCheckpoint, read_checkpoint
from vsjax.interop.viscy import abstract_variables, torch_name, variables_from_state
from vsjax.interop.viscy_settings import find_settings
from vsjax.models.registry import build_model, model_settings

GOLDEN = ["palette_tiny", "palette_tiny_attention"]


@pytest.mark.parametrize("name", GOLDEN)
def test_reproduces_the_authors_output_and_gradient(shared, name):
    found = convert_file(shared / "golden" / f"{name}.pth")
    wanted = json.loads((shared / "golden" / "index2.json").read_text())[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(found.variables)) == wanted["n_params"]
    golden = {key: np.moveaxis(a, 1, -1)[:, None] for key, a in np.load(shared / "golden" / f"{name}.npz").items()}
    model, sources = build_model(found.name, **found.settings), found.settings["in_channels"]

    @jax.jit
    def call(x):
        y = model.apply(found.variables, x[..., :sources], x[..., sources:], golden["gamma"].ravel())
        return (y * golden["w"]).sum(), y

    (_, y), gradient = jax.value_and_grad(call, has_aux=True)(golden["x"])
    for ours, theirs in ((y, golden["y"]), (gradient, golden["grad_x"])):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_what_training_stores_is_converted(shared, tmp_path):
    """The schedule beside the network is left out; the checkpoint draws."""
    golden = shared / "golden" / "palette_tiny.pth"
    tensors = {f"denoise_fn.{key}": value for key, value in read_checkpoint(golden).tensors.items()}
    tensors |= {key: np.linspace(0, 1, 5) for key in ("gammas", "posterior_mean_coef1", "sqrt_recip_gammas")}
    save_file(tensors, tmp_path / "200_Network_ema.safetensors")
    main(["--input", str(tmp_path / "200_Network_ema.safetensors"), "--output", str(tmp_path / "model")])
    stored, whole = (convert_file(path).variables for path in (tmp_path / "200_Network_ema.safetensors", golden))
    jax.tree.map(np.testing.assert_array_equal, stored, whole)
    predictor = load(tmp_path / "model")
    settings = PredictionSettings(sampler=change_sampler(predictor.sampler, {"steps": 2}))
    drawn = predictor.predict(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), settings)
    assert drawn.shape == (1, 32, 32, 2)
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"channel_mults": (2,), "res_blocks": 3},
        {"channel_mults": (1, 2, 2, 3), "res_blocks": 1, "attention_factors": (1, 8)},
        {"channel_mults": (1, 1), "res_blocks": 2, "attention_factors": (2,), "in_channels": 4, "out_channels": 2},
    ],
    ids=lambda settings: str(settings["channel_mults"]),
)
def test_settings_follow_from_shapes(settings):
    """From the tensors that the network would have in PyTorch."""
    settings = {**model_settings("palette"), "inner_channels": 32, **settings}
    variables = flax.traverse_util.flatten_dict(abstract_variables(build_model("palette", **settings)))
    state = {torch_name("palette", path[1:]): as_torch(path, leaf.shape) for path, leaf in variables.items()}
    assert len(state) == len(variables)
    found = find_settings(TorchCheckpoint("a.pth", state))
    assert {**model_settings("palette"), **found.settings} == settings
    assert found.assumed == ("head_channels", "dropout")
    variables_from_state("palette", state, found.settings)


def as_torch(path, shape):
    """Zeros in PyTorch's layout, `[out, in, *space]`; queries, keys and values are a convolution along a line."""
    if path[-1] != "kernel":
        return np.zeros(shape)
    return np.zeros((shape[-1], shape[-2], *shape[:-2], *([1] if path[-2] in ("qkv", "proj") else [])))


def test_slices_are_the_users_to_tell(shared):
    """Three source channels may be three slices of one."""
    path = shared / "golden" / "palette_tiny.pth"
    told = {"in_channels": 1, "in_stack_depth": 3, "out_stack_depth": 1, "head_channels": 16}
    found = convert_file(path, "palette", told)
    assert found.assumed == ("dropout",)
    deep, flat = (
        build_model("palette", **found.settings),
        build_model("palette", **{**convert_file(path).settings, "head_channels": 16}),
    )
    rng = np.random.default_rng(0)
    stack, noisy = jnp.asarray(rng.normal(size=(1, 3, 8, 8, 1))), jnp.asarray(rng.normal(size=(1, 1, 8, 8, 2)))
    ours = [
        jax.jit(model.apply)(found.variables, x, noisy, jnp.array([0.5]))
        for model, x in ((deep, stack), (flat, jnp.moveaxis(stack, 1, -1)[:, :, :, 0][:, None]))
    ]
    np.testing.assert_array_equal(*ours)
