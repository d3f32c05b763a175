"""The update rule against the authors' schedule and against AdamW written out in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vsjax.errors import UserError
from vsjax.schema import read_section
from vsjax.tasks.optimizer import OptimizerSettings, learning_rate, make_optimizer

DEFAULTS = {
    "learning_rate": 2e-4,
    "part_rates": {},
    "schedule": "cosine",
    "decay_start": 0.5,
    "warmup_steps": 3,
    "warmup_from": 1e-3,
    "weight_decay": 0.01,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "clip_norm": 0.0,
}


def config(**changes):
    return read_section(OptimizerSettings, {**DEFAULTS, **changes}, "config.optim")


def test_warmup_cosine_is_the_authors(shared):
    reference = np.load(shared / "golden" / "misc.npz")["warmup_cosine"]
    schedule = learning_rate(config(), 50)
    np.testing.assert_allclose([schedule(jnp.int32(step)) for step in range(50)], reference, rtol=1e-5, atol=1e-10)


def test_schedule_by_hand():
    schedule = learning_rate(config(learning_rate=1.0, warmup_steps=10), 110)
    assert schedule(0) == pytest.approx(1e-3)
    assert schedule(10) == pytest.approx(1.0)
    assert schedule(60) == pytest.approx(0.5)
    assert schedule(110) == pytest.approx(0.0, abs=1e-7)
    linear = learning_rate(config(learning_rate=1.0, schedule="linear", decay_start=0.4, warmup_steps=10), 110)
    assert [float(linear(step)) for step in (10, 44, 77, 110)] == pytest.approx([1.0, 1.0, 0.5, 0.0], abs=1e-6)
    constant = learning_rate(config(learning_rate=1.0, schedule="constant", warmup_steps=0), 110)
    assert constant(0) == constant(100) == pytest.approx(1.0)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw_by_hand(clip):
    rng = np.random.default_rng(0)
    settings = config(schedule="constant", warmup_steps=0, learning_rate=1e-2, weight_decay=0.1, clip_norm=clip)
    optimizer = make_optimizer(settings, 10, {})
    weights = rng.normal(size=(3, 4))
    params = {"w": jnp.asarray(weights, jnp.float32)}
    state = optimizer.init(params)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, 6):
        gradient = rng.normal(size=weights.shape)
        updates, state = optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        if clip:
            gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights = weights * (1 - 1e-2 * 0.1)
        weights = weights - 1e-2 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(params["w"], weights, rtol=2e-5, atol=1e-6)


def test_a_part_with_its_own_rate_moves_in_proportion():
    """Of decoupled decay too; the head, of which no rate is given, moves as before."""
    params = {
        name: {"w": jnp.asarray(np.random.default_rng(0).normal(size=5), jnp.float32)} for name in ("stem", "head")
    }
    parts, gradient = {"encoder": ("stem",), "head": ("head",)}, {name: {"w": jnp.ones(5)} for name in params}
    moved = {}
    for rate in (1.0, 0.1):
        settings = config(schedule="constant", warmup_steps=0, weight_decay=0.3, part_rates={"encoder": rate})
        optimizer = make_optimizer(settings, 10, parts)
        moved[rate], _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(moved[0.1]["stem"]["w"], 0.1 * moved[1.0]["stem"]["w"], rtol=1e-6)
    np.testing.assert_array_equal(moved[0.1]["head"]["w"], moved[1.0]["head"]["w"])
    with pytest.raises(
        UserError, match=r"config\.optim\.part_rates\.tail: the network has the parts encoder, head only"
    ):
        make_optimizer(config(part_rates={"tail": 0.1}), 10, parts)


@pytest.mark.parametrize(
    "change", [{"schedule": "step"}, {"decay_start": 1.0}, {"warmup_steps": 50}, {"warmup_steps": -1}]
)
def test_bad_settings_are_refused(change):
    with pytest.raises(UserError, match=r"config\.optim"):
        learning_rate(config(**change), 50)
