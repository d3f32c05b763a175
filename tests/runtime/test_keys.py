"""Keys depend on seed, name and step, each, and on nothing else."""

import itertools

import jax
import numpy as np

from vsjax.runtime.keys import named_key, step_key


def test_every_seed_name_and_step_has_its_own_key():
    keys = {
        (seed, name, step): tuple(np.asarray(jax.random.key_data(step_key(seed, name, step))).tolist())
        for seed, name, step in itertools.product((0, 1), ("train", "init"), (0, 1, 2))
    }
    assert len(set(keys.values())) == len(keys)


def test_traced_and_plain_steps_agree():
    traced = jax.jit(lambda step: jax.random.key_data(step_key(3, "train", step)))(7)
    np.testing.assert_array_equal(traced, jax.random.key_data(step_key(3, "train", 7)))
    np.testing.assert_array_equal(
        jax.random.key_data(step_key(3, "train", 7)),
        jax.random.key_data(jax.random.fold_in(named_key(3, "train"), 7)),
    )
