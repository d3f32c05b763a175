"""UNeXt2: size, initialisation, settings that cannot work, and what must not change the output."""

import math
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.models.registry import MODELS, build_model

ATTO = {"backbone": "convnextv2_atto", "depthwise": "conv"}  # conv compiles faster


def shapes(model, plane=None):
    example = model.example(plane or model.divisor[1:])
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *example)
    return variables, jax.eval_shape(partial(model.apply, train=False), variables, *example)


# Counted in VisCy's code (specifications, section 1).
@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("unext2", {"in_stack_depth": 5, "out_channels": 2, "head_pool": True}, 32_042_729),
        ("unext2", {"in_stack_depth": 21, "stem_kernel_size": (7, 4, 4), "out_channels": 2}, 40_043_689),
        (
            "fcmae",
            {"in_stack_depth": 1, "stem_kernel_size": (1, 2, 2), "out_channels": 2, "decoder_conv_blocks": 2},
            31_160_888,
        ),
        ("fcmae", {"out_channels": 2, "decoder_conv_blocks": 2}, 31_619_712),
        ("fcmae", {}, 29_722_112),
        ("unet25d", {"residual": True}, 2_014_322),
        ("fnet3d", {}, 35_318_529),
    ],
)
def test_parameter_counts_of_the_published_networks(name, settings, parameters):
    variables, out = shapes(build_model(name, **settings))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert out.dtype == jnp.float32
    assert out.shape[-1] == settings.get("out_channels", 1)


def test_sizes_of_ones_own_are_those_of_the_name():
    """As lists too, which a checkpoint's description gives back."""
    named = build_model("unext2", **ATTO)
    own = build_model("unext2", **{**ATTO, "backbone": [[2, 2, 6, 2], [40, 80, 160, 320]]})
    assert own.backbone == ((2, 2, 6, 2), (40, 80, 160, 320))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes(own)) == jax.tree.map(lambda leaf: leaf.shape, shapes(named))


@pytest.mark.parametrize("backbone", ["atto", "femto", "pico", "nano", "tiny", "base"])
def test_thirteen_slices_in_one_out(backbone):
    settings = {"in_stack_depth": 13, "stem_kernel_size": [13, 4, 4], "out_stack_depth": 1, "out_channels": 3}
    _, out = shapes(build_model("unext2", backbone=f"convnextv2_{backbone}", **settings), plane=(64, 96))
    assert out.shape == (1, 1, 64, 96, 3)


@pytest.fixture(scope="module")
def initial():
    model = build_model("unext2", decoder_upsample_pre_conv=True, out_channels=2, in_stack_depth=10, **ATTO)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 10, 32, 32, 1)))["params"]
    return {"/".join(path): np.asarray(value) for path, value in flax.traverse_util.flatten_dict(params).items()}


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("stem/conv/kernel", 1 / math.sqrt(3 * 80)),  # uniform: bound / sqrt(3)
        ("encoder_2/block_3/depthwise/kernel", 0.02),
        ("encoder_2/downsample/kernel", 0.02),
        ("encoder_3/block_1/expand/kernel", 0.02),
        ("decoder/stage_0/pre_conv/kernel", math.sqrt(2 / (9 * 320))),
        ("decoder/stage_1/stage/block_1/project/kernel", 0.02),
        ("head/conv/kernel", 1 / math.sqrt(3 * 27 * 8)),
        ("head/project/kernel", math.sqrt(2 / 32)),
    ],
)
def test_initial_spread_is_pytorchs(initial, name, spread):
    """Compared with the same tensors of VisCy's own, whose spread these are."""
    value = initial[name]
    if name.startswith("head/project") or "pre_conv" in name:
        value = value[..., ::4]  # ICNR repeats each kernel four times
    assert abs(value.std() / spread - 1) < 5 / math.sqrt(2 * value.size)
    assert abs(value.mean()) < 5 * spread / math.sqrt(value.size)


def test_initial_constants(initial):
    for name, value in initial.items():
        if name.endswith("scale"):
            assert (value == (0 if "grn" in name else 1)).all(), name
        elif name.endswith("bias") and name.split("/")[-2] not in ("conv", "pre_conv", "project"):
            assert (value == 0).all(), name
    assert initial["head/slope"] == 0.25


def test_a_new_network_draws_no_checkerboard(initial, random_variables):
    """ICNR: before training, the pixels that one shuffle places side by side are equal."""
    model = build_model("unext2", out_channels=2, decoder_conv_blocks=1, **ATTO)
    x = jax.random.normal(jax.random.key(0), (1, 5, 32, 32, 1))
    variables = random_variables(model, x)
    variables["params"]["head"]["project"] = {"kernel": initial["head/project/kernel"], "bias": jnp.zeros(8)}
    y = jax.jit(model.apply)(variables, x)[0]
    np.testing.assert_allclose(y[:, ::2, ::2], y[:, 1::2, 1::2], atol=1e-6)
    assert y.std() > 0.01


def test_bfloat16_stays_close_to_float32(random_variables):
    x = jax.random.normal(jax.random.key(0), (1, 5, 32, 32, 1))
    variables = random_variables(build_model("unext2", **ATTO), x)
    wide, narrow = (
        jax.jit(build_model("unext2", dtype, **ATTO).apply)(variables, x) for dtype in ("float32", "bfloat16")
    )
    assert narrow.dtype == jnp.float32
    assert 0 < jnp.abs(wide - narrow).max() / wide.std() < 0.2
    assert jnp.abs(wide - narrow).mean() / wide.std() < 0.02


def test_drop_path_only_in_training(random_variables):
    model = build_model("unext2", drop_path_rate=0.5, decoder_conv_blocks=1, **ATTO)
    x = jax.random.normal(jax.random.key(0), (1, 5, 32, 32, 1))
    variables = random_variables(model, x)
    run = jax.jit(lambda key, train: model.apply(variables, x, train, rngs={"dropout": key}), static_argnums=1)
    keys = jax.random.split(jax.random.key(2), 2)
    np.testing.assert_array_equal(run(keys[0], False), run(keys[1], False))
    assert jnp.abs(run(keys[0], True) - run(keys[1], True)).max() > 0


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("unext3", {}, r"model.name: 'unext3' does not exist; choose one of unext2"),
        ("unext2", {"backbon": "x"}, r"model.backbon: there is no such field; there are name, in_channels"),
        ("unext2", {"backbone": "resnet50"}, r"model.backbone: is 'resnet50'; it must be one of convnextv2_atto"),
        ("unext2", {"backbone": ((1, 1, 1), (8, 16, 24))}, r"model.backbone: .* or \(blocks, channels\) of four"),
        ("unext2", {"backbone": ((1, 1, 1, 0), (8, 16, 24, 32))}, r"model.backbone: is .* 0"),
        ("unext2", {"backbone": (2, 2, 6, 2)}, r"model.backbone: is \(2, 2, 6, 2\)"),
        (
            "unext2",
            {"backbone": ((1, 1, 1, 1), (9, 16, 24, 32)), "in_stack_depth": 10},
            r"not divide the 9 channels",
        ),
        ("unext2", {"in_stack_depth": 13}, r"model.in_stack_depth = 13 is not divisible by 5"),
        ("unext2", {"in_stack_depth": 35}, r"35 makes 7 patches in depth"),
        ("unext2", {"stem_kernel_size": (5, 2, 2)}, r"model.stem_kernel_size = \(5, 2, 2\)"),
        ("unext2", {"dtype": "float16"}, r"dtype: 'float16' does not exist; choose one of float32, bfloat16"),
        ("fcmae", {"in_stack_depth": 7}, r"model.in_stack_depth = 7 is not divisible by 5"),
        ("fcmae", {"dims": (8, 16)}, r"model.encoder_blocks has 4 stages and model.dims 2"),
        ("fcmae", {"head_conv": True, "in_stack_depth": 1, "stem_kernel_size": (1, 2, 2)}, r"must be 4, because"),
        ("unet25d", {"num_filters": (4, 8)}, r"model.num_filters has 2 entries"),
        ("unet25d", {"task": "regression"}, r"model.task: is 'regression'; it must be 'reg' or 'seg'"),
        ("unet25d", {"out_stack_depth": 6}, r"model.out_stack_depth = 6"),
        ("fnet3d", {"in_stack_depth": 8}, r"model.in_stack_depth = 8 is not divisible by 2\*\*model.depth = 16"),
    ],
)
def test_settings_that_cannot_work(name, settings, says):
    with pytest.raises(UserError, match=says):
        build_model(name, **settings)


@pytest.mark.parametrize("name", MODELS)
def test_the_divisor_is_what_the_plane_must_be_divisible_by(name):
    """The smallest plane it allows works, and gives back that plane."""
    model = build_model(name)
    _, out = shapes(model)
    if model.predicts_by:
        assert out.shape[2:4] == model.divisor[1:]
