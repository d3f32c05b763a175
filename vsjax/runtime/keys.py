"""Random keys as a function of (seed, name, step): a resumed run draws what the uninterrupted one would have."""

import zlib

import jax


def named_key(seed: int, name: str) -> jax.Array:
    """The root key of one purpose (`"init"`, `"augment"`, ...) of the run with this seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def step_key(seed: int, name: str, step: int | jax.Array) -> jax.Array:
    """`fold_in(fold_in(root, name), step)`: the key of one purpose at one step. `step` may be traced."""
    return jax.random.fold_in(named_key(seed, name), step)
