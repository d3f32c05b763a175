"""Two toy families that join by the contracts alone: two networks with two optimisers, and a prediction that is drawn.

`python tests/toys.py FAMILY WORKDIR PLATE STEPS [data fsdp space]` trains one of `CONFIGS`: the first, or a small
diffusion."""

import sys
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from configs.common import base_config, channel_role, metadata_role
from vsjax.models import registry as models
from vsjax.models.network import Network
from vsjax.schema import Document, read_section
from vsjax.tasks import registry
from vsjax.tasks.assembly import make_inputs
from vsjax.tasks.descent import update
from vsjax.tasks.family import ForwardPass
from vsjax.tasks.optimizer import OptimizerSettings, make_optimizer
from vsjax.tasks.regression import RegressionTask
from vsjax.tasks.state import TrainState
from vsjax.tasks.task import MetricSpec, TaskSettings
from vsjax.training.loop import train


class OneConvolution(Network):
    """(depth, 3, 3) kernels and a nonlinearity; it looks one pixel far."""

    in_stack_depth: int = 3
    divisor = (1, 4, 4)
    receptive_radius = 1
    parts = {"encoder": ("conv",), "decoder": (), "head": ("head",)}  # noqa: RUF012
    stages = ()
    dtype: type = jnp.float32

    @property
    def out_depth(self):
        return self.in_stack_depth

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.out_channels, name="head")(nn.tanh(nn.Conv(32, (3, 3, 3), name="conv")(x)))


class OneDenoiser(OneConvolution):
    """Two layers of what a denoiser is given: the image's slices and the noisy stain's as channels, noise level and
    class. It says nothing before it learns."""

    out_stack_depth: int | None = None
    classes: int = 0
    predicts_by = "diffusion"
    parts = {"encoder": ("conv", "known"), "decoder": (), "head": ("head",)}  # noqa: RUF012

    @property
    def out_depth(self):
        return self.out_stack_depth or self.in_stack_depth

    def example(self, plane):
        noisy = jax.ShapeDtypeStruct((1, self.out_depth, *plane, self.out_channels), jnp.float32)
        return *super().example(plane), noisy, jax.ShapeDtypeStruct((1,), jnp.float32)

    @nn.compact
    def __call__(self, x, noisy, gamma, label=None, train=False):
        label = jnp.full(len(x), self.classes) if label is None else label
        planes = [jnp.moveaxis(image, 1, 3).reshape(*image.shape[:1], *image.shape[2:4], -1) for image in (x, noisy)]
        h = nn.Conv(16, (3, 3), name="conv")(jnp.concatenate(planes, axis=-1))
        known = jnp.concatenate([gamma[:, None], jax.nn.one_hot(label, self.classes + 1)], axis=-1)
        h = nn.tanh(h + nn.Dense(16, name="known")(known)[:, None, None])
        h = nn.Dense(self.out_depth * self.out_channels, name="head", kernel_init=nn.initializers.zeros)(h)
        return jnp.moveaxis(h.reshape(*h.shape[:3], self.out_depth, self.out_channels), 3, 1)


class CriticSettings(TaskSettings):
    critic_rate: float = 1e-3
    weight: float = 0.1


@dataclass(frozen=True)
class TwoNetworks:
    """A generator against a critic that tells its stains from real ones (LSGAN)."""

    Settings, decided, family_of = CriticSettings, RegressionTask.decided, RegressionTask.family_of
    model: Network
    critic: Network
    inputs: object
    optimizers: tuple
    weight: float

    @classmethod
    def make(cls, config, images):
        settings, model = read_section(CriticSettings, config.task, "config.task"), models.network_of(config)
        optim = read_section(OptimizerSettings, config.optim, "config.optim")
        critic = OneConvolution(in_channels=model.in_channels + model.out_channels, out_channels=1)
        optimizers = (make_optimizer(optim, config.train.steps, model.parts), optax.adam(settings.critic_rate))
        return cls(model, critic, make_inputs(config, model, images), optimizers, settings.weight)

    family = property(lambda self: ForwardPass(self.model))
    networks = property(lambda self: {"generator": self.model, "critic": self.critic})
    metrics = {"loss": MetricSpec(), "realism": MetricSpec(maximise=True)}  # noqa: RUF012

    def init(self, key, batch):
        images = self.inputs.training(key, batch)
        generator = self.model.init(key, images["source"][:1])
        critic = self.critic.init(key, jnp.concatenate([images["source"], images["target"]], -1)[:1])
        states = tuple(o.init(v["params"]) for o, v in zip(self.optimizers, (generator, critic), strict=True))
        return TrainState(jnp.int32(0), generator, {}, states, critic)

    def judge(self, critic, source, stain):
        return self.critic.apply(critic, jnp.concatenate([source, stain], axis=-1))

    def step(self, state, batch, key):
        source, real = (self.inputs.training(key, batch)[role] for role in ("source", "target"))

        def generator_loss(params):
            fake = self.model.apply({"params": params}, source)
            fooled = jnp.mean(jnp.square(1 - self.judge(state.auxiliary, source, fake)))
            return jnp.mean(jnp.abs(fake - real)) + self.weight * fooled, fake

        def critic_loss(params):
            on_fake, on_real = (self.judge({"params": params}, source, stain) for stain in (fake, real))
            return jnp.mean(jnp.square(on_fake) + jnp.square(1 - on_real)) / 2

        (loss, fake), gradient = jax.value_and_grad(generator_loss, has_aux=True)(state.variables["params"])
        critic_value, critic_gradient = jax.value_and_grad(critic_loss)(state.auxiliary["params"])
        params, one = update(self.optimizers[0], gradient, state.optimizer[0], state.variables["params"])
        judging, two = update(self.optimizers[1], critic_gradient, state.optimizer[1], state.auxiliary["params"])
        networks = {"variables": {"params": params}, "auxiliary": {"params": judging}}
        state = state.replace(step=state.step + 1, optimizer=(one, two), **networks)
        return state, {"loss": loss, "critic_loss": critic_value}

    def evaluate(self, state, batch, key):
        shown, mean = self.sample(state, batch, key), partial(jnp.mean, axis=(1, 2, 3, 4))
        realism = mean(self.judge(state.auxiliary, shown["source"], shown["fake"]))
        return {"loss": mean(jnp.abs(shown["fake"] - shown["target"])), "realism": realism}

    def sample(self, state, batch, key):
        images = self.inputs.evaluation(batch)
        return images | {"fake": self.model.apply(state.variables, images["source"])}


class Walk(Document):
    """Settings of the drawn family."""

    steps: int = Field(3, ge=1, le=1000, description="of the walk")
    strength: float = Field(0.5, ge=0, le=100, description="of its noise")


WALK = Walk()


@dataclass(frozen=True)
class Drawn(ForwardPass):
    """Applies its network again and again, with new noise each time: it looks as many pixels far as it takes steps."""

    draws: bool = True
    sampler: Walk = WALK
    receptive_radius = property(lambda self: self.sampler.steps)

    def predict(self, variables, window, context):
        def step(x, number):
            noise = context.fold(number).normal(x.shape)
            return self.network.apply(variables, x) + self.sampler.strength * noise, None

        return jax.lax.scan(step, window, jnp.arange(self.sampler.steps))[0]


class DrawnTask:
    Settings = TaskSettings
    family_of = staticmethod(lambda config: Drawn(models.network_of(config)))


models.MODELS |= {"one_convolution": OneConvolution, "one_denoiser": OneDenoiser}
registry.TASKS |= {"two_networks": TwoNetworks, "drawn": DrawnTask}


def two_networks_config(plate, steps, mesh=(-1, 1, 1)):
    config = small_config(base_config("one_convolution", "two_networks"), plate, steps, mesh)
    config.train.best = "realism"
    return config


def diffusion_config(plate, steps, mesh=(-1, 1, 1)):
    """With classes, and a stack of which one slice is predicted."""
    config = base_config("one_denoiser", "diffusion", out_stack_depth=1)
    config.roles.label = metadata_role("row", "A", "B")
    config.task.validation_steps = 3
    config.optim.average_decay = 0.9
    return small_config(config, plate, steps, mesh)


def small_config(config, plate, steps, mesh):
    config.roles.source, config.roles.target = channel_role("BF"), channel_role("nuclei")
    config.data.update(plates=(str(plate),), patch=(3, 32, 32), batch_size=4, val_fovs=("A/1/0",))
    config.augment.update(rotation="right_angles", rotation_probability=1.0, noise_probability=0.5)
    config.optim.update(learning_rate=1e-2, warmup_steps=2)
    config.train.update(steps=steps, log_every=1, validate_every=4, save_every=4)
    config.mesh.update(dict(zip(("data", "fsdp", "space"), mesh, strict=True)))
    return config


CONFIGS = {"two_networks": two_networks_config, "diffusion": diffusion_config}

if __name__ == "__main__":
    family, workdir, plate, steps, *mesh = sys.argv[1:]
    train(CONFIGS[family](plate, int(steps), tuple(map(int, mesh)) or (-1, 1, 1)), workdir)
