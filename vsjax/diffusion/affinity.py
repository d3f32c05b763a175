"""The graph of neural spectral clustering (DiffStain, section 2.2): patches are nodes, similar ones are tied.

The affinity of features F is `A = max(F F^T, 0)` of unit rows, the normalised Laplacian `L = I - S` with
`S = D^-1/2 A D^-1/2`. S has L's eigenvectors, the first of L as its last, and is all that is computed. The augmented
affinity `[[A_a, A_as], [A_as^T, A_s]]` is the affinity of the anchor's features followed by a tile's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

STORED_NODES = 4096  # of a graph whose affinity is kept in memory (64 MiB); of larger ones it is computed by rows
_TINY = 1e-12

Product = Callable[[Array], Array]


def unit_rows(features: Array) -> Array:
    """Features `[..., D]`, each of length 1; those that are zero stay so."""
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), _TINY)


def affinity(one: Array, other: Array) -> Array:
    """How alike features `[N, D]` and `[M, D]` of length 1 are: `[N, M]`, their cosine, none below 0."""
    return jnp.maximum(jnp.matmul(one, other.T, precision="highest"), 0)


def normalized_affinity(features: Array, stored: int = STORED_NODES) -> tuple[Product, Array]:
    """The normalised affinity S of a graph as a product, and its first eigenvector, which says nothing.

    Args:
        features: `[N, D]`, of any length.
        stored: graphs of so many nodes are kept in memory; of larger ones blocks of rows are computed anew for each
            product, so that nothing of N x N is ever there.

    Returns:
        `product(vectors [N, m]) -> S vectors [N, m]`, and the eigenvector of S to the eigenvalue 1, `[N]`: the square
        root of the degrees, of length 1.
    """
    nodes = unit_rows(features)
    if len(nodes) <= stored:
        weights = affinity(nodes, nodes)
        multiply = lambda vectors: jnp.matmul(weights, vectors, precision="highest")  # noqa: E731
    else:
        multiply = _by_rows(nodes, stored)
    degree = multiply(jnp.ones((len(nodes), 1)))
    root = jnp.sqrt(jnp.maximum(degree, _TINY))
    return lambda vectors: multiply(vectors / root) / root, (root / jnp.linalg.norm(root))[:, 0]


def _by_rows(nodes: Array, stored: int) -> Product:
    """The product with an affinity of which as many rows at a time are computed as take the memory of a stored one."""
    rows = max(1, stored**2 // len(nodes))

    def multiply(vectors: Array) -> Array:
        return jax.lax.map(
            lambda node: jnp.matmul(affinity(node[None], nodes), vectors, precision="highest")[0],
            nodes,
            batch_size=rows,
        )

    return multiply
