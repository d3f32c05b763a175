"""AdamW and its learning-rate schedule."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vsjax.errors import UserError
from vsjax.tasks.parts import is_in

SCHEDULES = ("cosine", "constant")


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up from `warmup_from * lr`, then cosine to zero or constant, as a function of the step.

    The defaults follow VisCy's warm-up cosine (MONAI `WarmupCosineSchedule`): step 0 already learns at
    `warmup_from` (0.001) of the rate.

    Raises:
        UserError: an unknown schedule, or a warm-up longer than the run.
    """
    warmup = config.warmup_steps
    if config.schedule not in SCHEDULES:
        raise UserError(
            f"config.optim.schedule={config.schedule!r} does not exist; choose one of {', '.join(SCHEDULES)}"
        )
    if not 0 <= warmup < steps:
        raise UserError(f"config.optim.warmup_steps={warmup} must be at least 0 and below config.train.steps={steps}")

    def schedule(step: jax.Array) -> jax.Array:
        ramp = config.warmup_from + (1.0 - config.warmup_from) * step / max(warmup, 1)
        progress = (step - warmup) / max(steps - warmup, 1)
        after = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0))) if config.schedule == "cosine" else 1.0
        return config.learning_rate * jnp.where(step < warmup, ramp, after)

    return schedule


def make_optimizer(config: ConfigDict, steps: int, frozen: Collection[str] = ()) -> optax.GradientTransformation:
    """AdamW (betas .9 and .999, eps 1e-8, decoupled decay on every parameter, as torch's) after optional clipping of
    the gradient's global norm (`clip_norm` 0 turns it off). Parameters of `frozen` modules (`parts.py`) stay as they
    are: neither gradient nor decay moves them, and no moments are kept for them."""
    adamw = optax.adamw(
        learning_rate(config, steps), b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
    )
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
    if not frozen:
        return optimizer

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda stays: "stays" if stays else "learns", is_in(frozen, params))

    return optax.partition({"learns": optimizer, "stays": optax.set_to_zero()}, labels)
