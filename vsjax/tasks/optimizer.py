"""AdamW and its learning-rate schedules."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vsjax.errors import UserError
from vsjax.tasks.parts import is_in

SCHEDULES = ("cosine", "linear", "constant")


def learning_rate(config: ConfigDict, steps: int, where: str = "config.optim") -> optax.Schedule:
    """Linear warm-up from `warmup_from * lr`, then the schedule, as a function of the step: "constant", "cosine" to
    zero, or "linear" to zero after a constant part that ends at `decay_start` of the run.

    The defaults follow VisCy's warm-up cosine (MONAI `WarmupCosineSchedule`): step 0 already learns at
    `warmup_from` (0.001) of the rate.

    Raises:
        UserError: an unknown schedule, a warm-up longer than the run, or a decay that does not begin within it.
    """
    warmup = config.warmup_steps
    if config.schedule not in SCHEDULES:
        raise UserError(f"{where}.schedule={config.schedule!r} does not exist; choose one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup < steps:
        raise UserError(f"{where}.warmup_steps={warmup} must be at least 0 and below config.train.steps={steps}")

    if not 0 <= config.decay_start < 1:
        raise UserError(f"{where}.decay_start={config.decay_start} must be at least 0 and below 1")
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
    config: ConfigDict,
    steps: int,
    parts: Mapping[str, Sequence[str]],
    frozen: Collection[str] = (),
    where: str = "config.optim",
) -> optax.GradientTransformation:
    """AdamW (betas .9 and .999, eps 1e-8, decoupled decay on every parameter, as torch's) after optional clipping of
    the gradient's global norm (`clip_norm` 0 turns it off).

    Args:
        config: `config.optim`, or a section like it of a task with several optimisers.
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
