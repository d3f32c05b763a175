"""k-means with the starts of k-means++ (Arthur and Vassilvitskii 2007)."""

import jax
import jax.numpy as jnp
from jax import Array

RESTARTS = 8
ITERATIONS = 40


def kmeans(
    points: Array, clusters: int, key: Array, restarts: int = RESTARTS, iterations: int = ITERATIONS
) -> tuple[Array, Array, Array]:
    """The best of several runs of Lloyd's algorithm; a function of the points and the key.

    Args:
        points: `[N, D]`.
        clusters: how many, at most N. Where there are fewer different points, some are empty.
        key: of the starts.
        restarts, iterations: how often it starts, and how long each run is.

    Returns:
        Centres `[clusters, D]`, the number of each point's nearest centre `[N]`, and the inertia: the sum of the
        squared distances to these.
    """

    points = jnp.asarray(points)

    def run(key: Array) -> tuple[Array, Array]:
        centres = jax.lax.fori_loop(
            0, iterations, lambda _, centres: _moved(points, centres), _start(points, clusters, key)
        )
        return centres, squared_distances(points, centres).min(axis=1).sum()

    centres, inertia = jax.vmap(run)(jax.random.split(key, restarts))
    best = inertia.argmin()
    return centres[best], nearest(points, centres[best]), inertia[best]


def nearest(points: Array, centres: Array) -> Array:
    """The number of the nearest of centres `[K, D]` to each of points `[..., D]`; the first of several."""
    return squared_distances(points, centres).argmin(axis=-1).astype(jnp.int32)


def squared_distances(points: Array, centres: Array) -> Array:
    """From points `[..., D]` to centres `[K, D]`: `[..., K]`. From differences: products would cancel in float32."""
    return jnp.square(points[..., None, :] - centres).sum(axis=-1)


def _start(points: Array, clusters: int, key: Array) -> Array:
    """Centres `[clusters, D]`: points, each drawn by its squared distance to the nearest centre so far."""
    first, *keys = jax.random.split(key, clusters)
    centres = [points[jax.random.randint(first, (), 0, len(points))]]
    distance = jnp.square(points - centres[0]).sum(axis=-1)
    for key in keys:
        # `log(0)` is never drawn; where all distances are 0 the first point is.
        centres.append(points[jax.random.categorical(key, jnp.log(distance))])
        distance = jnp.minimum(distance, jnp.square(points - centres[-1]).sum(axis=-1))
    return jnp.stack(centres)


def _moved(points: Array, centres: Array) -> Array:
    """Each centre in the middle of its points; an empty one stays."""
    mine = jax.nn.one_hot(nearest(points, centres), len(centres))
    counts = mine.sum(axis=0)[:, None]
    return jnp.where(counts > 0, jnp.matmul(mine.T, points, precision="highest") / jnp.maximum(counts, 1), centres)
