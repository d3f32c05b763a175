"""AdamW and its learning-rate schedules."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from vsjax.errors import UserError
from vsjax.schema import Document, Name, Share
from vsjax.tasks.parts import is_in

LARGEST_STEP = 2**31 - 1  # a step is counted in 32 bits
Beta = Annotated[float, Field(ge=0, le=0.9999999, description="closer to 1, float32 forgets nothing")]


class OptimizerSettings(Document):
    """One optimiser, such as `config.optim`; a task with several networks has a section like it for each."""

    learning_rate: float = Field(2e-4, gt=0, le=1e38, description="0 learns nothing; a float32 ends there")
    part_rates: dict[Name, Annotated[float, Field(ge=0, le=1000)]] = Field(
        {"encoder": 1.0, "decoder": 1.0, "head": 1.0}, description="times the learning rate"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="to zero; linear: to zero from `decay_start` on"
    )
    decay_start: float = Field(0.5, ge=0, lt=1, description="of the run's steps")
    warmup_steps: int = Field(100, ge=0, le=LARGEST_STEP, description="steps of the run, 0 for no warm-up")
    warmup_epochs: int = Field(0, ge=0, le=10**6, description="used with train.epochs, in place of warmup_steps")
    warmup_from: Share = Field(1e-3, description="of the learning rate")
    weight_decay: float = Field(0.01, ge=0, le=100, description="times the rate, what is taken off a weight in a step")
    b1: Beta = 0.9
    b2: Beta = 0.999
    eps: float = Field(1e-8, ge=1e-30, le=1, description="what keeps AdamW from dividing by zero in float32")
    clip_norm: float = Field(0.0, ge=0, le=1e6, description="of the gradient's global norm; 0 is off")
    average_decay: float = Field(
        0.0,
        ge=0,
        le=0.9999999,
        description="moving average of the parameters, used for validation and prediction; 0 is off",
    )


def learning_rate(config: OptimizerSettings, steps: int, where: str = "config.optim") -> optax.Schedule:
    """Linear warm-up from `warmup_from * lr`, then the schedule, as a function of the step: "constant", "cosine" to
    zero, or "linear" to zero after a constant part that ends at `decay_start` of the run.

    The defaults follow VisCy's warm-up cosine (MONAI `WarmupCosineSchedule`): step 0 already learns at
    `warmup_from` (0.001) of the rate.

    Raises:
        UserError: a warm-up longer than the run.
    """
    warmup = config.warmup_steps
    if warmup >= steps:
        raise UserError(
            f"{where}.warmup_steps={warmup} must be below config.train.steps={steps}; set fewer, or more steps"
        )
    start = config.decay_start * steps
    decays = {
        "cosine": lambda step: 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1))),
        "linear": lambda step: 1.0 - jnp.clip((step - start) / (steps - start), 0.0, 1.0),
        "constant": lambda step: 1.0,
    }

    def schedule(step: jax.Array) -> jax.Array:
        ramp = config.warmup_from + (1.0 - config.warmup_from) * step / max(warmup, 1)
        return config.learning_rate * jnp.where(step < warmup, ramp, decays[config.schedule](step))

    return schedule


def make_optimizer(
    config: OptimizerSettings,
    steps: int,
    parts: Mapping[str, Sequence[str]],
    frozen: Collection[str] = (),
    where: str = "config.optim",
) -> optax.GradientTransformation:
    """AdamW (betas .9 and .999, eps 1e-8, decoupled decay on every parameter, as torch's) after optional clipping of
    the gradient's global norm (`clip_norm` 0 turns it off).

    Args:
        config: of this optimiser.
        steps: of the run.
        parts: of the network (`models/network.py`); `config.part_rates` multiplies the learning rate of each.
        frozen: top-level modules whose parameters stay as they are: neither gradient nor decay moves them, and no
            moments are kept for them.
        where: the section's name, for messages.

    Raises:
        UserError: a rate names a part that the network does not have, or `learning_rate`'s.
    """
    adamw = optax.adamw(
        learning_rate(config, steps, where),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
    rates = {part: rate for part, rate in config.part_rates.items() if rate != 1.0}
    if missing := [part for part in rates if part not in parts]:
        raise UserError(f"{where}.part_rates.{missing[0]}: the network has the parts {', '.join(parts)} only")
    if rates:  # an update of AdamW is proportional to the learning rate
        optimizer = optax.chain(optimizer, optax.stateless(lambda updates, _: _scaled(updates, parts, rates)))
    if not frozen:
        return optimizer

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda stays: "stays" if stays else "learns", is_in(frozen, params))

    return optax.partition({"learns": optimizer, "stays": optax.set_to_zero()}, labels)


def _scaled(updates: Any, parts: Mapping[str, Sequence[str]], rates: Mapping[str, float]) -> Any:
    """Updates `{module: ...}`, those of a part times its rate."""
    factors = {module: rate for part, rate in rates.items() for module in parts[part]}
    return {module: optax.tree.scale(factors.get(module, 1.0), tree) for module, tree in updates.items()}
