"""A network small enough to check by hand, and checkpoints of it: what the tests of the predictor share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vsjax.models import registry
from vsjax.models.network import Network
from vsjax.runtime.checkpoint import save_variables
from vsjax.runtime.description import Description

STATISTICS = {"mean": 90.0, "std": 30.0, "median": 80.0, "iqr": 20.0, "p1": 60.0, "p99": 200.0}


class LocalNetwork(Network):
    """A (depth, 2r+1, 2r+1) convolution with a nonlinearity: it looks `radius` pixels far and no farther."""

    in_stack_depth: int = 3
    out_stack_depth: int = 3
    radius: int = 2
    divisor: tuple[int, int, int] = (1, 4, 4)
    dtype: type = jnp.float32

    @property
    def receptive_radius(self):
        return self.radius

    @property
    def out_depth(self):
        return self.out_stack_depth

    @property
    def parts(self):
        return {"head": ("Conv_0",)}

    stages = ("Conv_0",)

    @nn.compact
    def __call__(self, x, train=False):
        batch, depth, rows, columns, channels = x.shape
        x = x.transpose(0, 2, 3, 1, 4).reshape(batch, rows, columns, depth * channels)
        size = 2 * self.radius + 1
        init = nn.initializers.normal(0.3)
        x = jnp.tanh(
            nn.Conv(self.out_stack_depth * self.out_channels, (size, size), kernel_init=init, bias_init=init)(x)
        )
        x = x.reshape(batch, rows, columns, self.out_stack_depth, self.out_channels)
        return x.transpose(0, 3, 1, 2, 4)


registry.MODELS.setdefault("local_test_network", LocalNetwork)


def save_checkpoint(
    path,
    *,
    name="local_test_network",
    seed=0,
    source=("Phase",),
    target=("nuclei",),
    scope="fov",
    statistic="mean_std",
    target_scope="dataset",
    **settings,
):
    """Write a checkpoint with random weights; returns the module and its variables."""
    settings = {"in_channels": len(source), "out_channels": len(target), **settings}
    module = registry.build_model(name, **settings)
    shape = (1, module.in_stack_depth, *(2 * d for d in module.divisor[1:]), len(source))
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros(shape))
    described = {"source": (source, scope, statistic), "target": (target, target_scope, "median_iqr")}
    description = Description(
        config={"model": {"name": name, **settings}, "task": {"name": "regression"}, "dtype": "float32"},
        channels={
            role: {"channels": channels, "normalization": {"scope": over, "statistic": measure}}
            for role, (channels, over, measure) in described.items()
        },
        pixel_size_um=(0.5, 0.2, 0.2),
        statistics=dict.fromkeys((*source, *target), STATISTICS),
    )
    save_variables(path, variables, description)
    return module, variables
