"""What a network says of itself, against what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.models.registry import MODELS, build_model

SMALL = {"num_blocks": 2, "num_filters": (2, 2, 2)}
FINITE = {
    "unet2d": ("unet2d", SMALL),
    "unet2d, one wide layer, shortcuts": (
        "unet2d",
        {**SMALL, "kernel_size": (5, 5), "num_block_layers": 1, "residual": True},
    ),
    "unet2d, three halvings": ("unet2d", {"num_blocks": 3, "num_filters": (2,) * 4, "num_block_layers": 1}),
    "unet25d": ("unet25d", {**SMALL, "in_stack_depth": 3}),
    "unet25d, of two slices": ("unet25d", {**SMALL, "in_stack_depth": 3, "out_stack_depth": 2, "task": "seg"}),
    "fnet3d": ("fnet3d", {"depth": 1, "mult_chan": 2, "in_stack_depth": 2}),
    "fnet3d, two halvings": ("fnet3d", {"depth": 2, "mult_chan": 1, "in_stack_depth": 4}),
}


def open_variables(model, random, shape):
    """Positive weights: with a positive image no rectifier closes, and nothing that is seen cancels."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))
    return jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("case", FINITE)
def test_a_network_looks_as_far_as_its_receptive_radius_and_no_farther(case):
    """From every place on the coarsest grid, by the derivatives of one row or column of the output."""
    name, settings = FINITE[case]
    model = build_model(name, **settings)
    stride, radius = model.divisor[2], model.receptive_radius
    side = 2 * (radius // stride + 2) * stride
    shape = (1, model.in_stack_depth, side, side, 1)
    random = np.random.default_rng(0)
    variables, image = open_variables(model, random, shape), random.uniform(0.1, 1, shape).astype(np.float32)

    @jax.jit
    def slopes(place):
        def lines(x):
            y = model.apply(variables, x, train=False)
            return y[:, :, place].sum(), y[:, :, :, place].sum()

        return [jax.grad(lambda x, i=i: lines(x)[i])(image) for i in (0, 1)]

    looked = []
    for place in range(side // 2, side // 2 + stride):
        rows, columns = slopes(place)
        for slope, others in ((rows, (0, 1, 3, 4)), (columns, (0, 1, 2, 4))):
            seen = np.flatnonzero(np.abs(np.asarray(slope)).sum(axis=others))
            looked.append(max(place - seen[0], seen[-1] - place))
    assert max(looked) == radius


@pytest.mark.parametrize("name", MODELS)
def test_every_module_is_in_one_part_and_every_stage_is_a_module(name):
    model = build_model(name)
    paths = []

    def note(module, method):
        paths.append("/".join(module.path))
        return False

    def call(key, *inputs):
        return model.init_with_output(key, *inputs, train=False, capture_intermediates=note, mutable=True)

    output, variables = jax.eval_shape(call, jax.random.key(0), *model.example(model.divisor[1:]))
    modules = [module for part in model.parts.values() for module in part]
    assert len(modules) == len(set(modules))
    assert set(variables["params"]) | set(variables.get("batch_stats", {})) <= set(modules)
    assert [path for path in paths if path in model.stages] == list(model.stages)
    if model.predicts_by:
        assert output.shape == (1, model.out_depth, *model.divisor[1:], model.out_channels)
