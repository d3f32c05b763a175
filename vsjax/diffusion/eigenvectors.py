"""The first eigenvectors of a graph's Laplacian, by block Lanczos with full reorthogonalisation (Golub and Van Loan,
Matrix Computations, section 10.3): blocks find repeated eigenvalues, which one vector at a time would miss."""

import jax
import jax.numpy as jnp
from jax import Array

from vsjax.diffusion.affinity import Product

SPARE = 5  # vectors of a block beyond those that are wanted: what lies close behind these slows nothing then
STEPS = 24  # blocks; of graphs with as many nodes or fewer all eigenvectors are computed
_PASSES = 3  # of orthogonalisation: two are enough, and one more where a block holds nothing new


def first_eigenvectors(product: Product, trivial: Array, count: int, steps: int = STEPS) -> tuple[Array, Array]:
    """The eigenvectors of L = I - S after the trivial one, by rising eigenvalue.

    Args:
        product: with S, `[N, m] -> [N, m]`; see `normalized_affinity`.
        trivial: the eigenvector `[N]` of S to the eigenvalue 1 that is left out. Where the graph falls apart into
            pieces, the other combinations of these are among the result.
        count: of eigenvectors, below N.
        steps: blocks of the basis; a pure function of the arguments, without a draw that differs from call to call.

    Returns:
        Eigenvalues of L `[count]` and orthonormal eigenvectors `[N, count]`, whose signs mean nothing.
    """
    nodes, width = len(trivial), count + SPARE
    with jax.default_matmul_precision("highest"):
        if nodes <= steps * width + 1:
            # The trivial eigenvalue is put below all others, which lie between -1 and 1.
            whole = product(jnp.eye(nodes)) - 3 * jnp.outer(trivial, trivial)
            values, vectors = jnp.linalg.eigh((whole + whole.T) / 2)
            return 1 - values[: -count - 1 : -1], vectors[:, : -count - 1 : -1]
        basis, images = _krylov_basis(product, trivial, width, steps)
        projected = basis.T @ images
        values, vectors = jnp.linalg.eigh((projected + projected.T) / 2)
        return 1 - values[: -count - 1 : -1], basis @ vectors[:, : -count - 1 : -1]


def _krylov_basis(product: Product, trivial: Array, width: int, steps: int) -> tuple[Array, Array]:
    """An orthonormal basis of what `steps` products make of a random block, without the trivial vector, and its product
    with S: both `[N, steps * width]`."""
    nodes = len(trivial)

    def orthonormal(block: Array, basis: Array) -> Array:
        def once(_: Array, block: Array) -> Array:
            block = block - jnp.outer(trivial, trivial @ block)
            return jnp.linalg.qr(block - basis @ (basis.T @ block))[0]

        return jax.lax.fori_loop(0, _PASSES, once, block)

    def extend(number: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        basis, images, block = state
        block = orthonormal(block, basis)
        image = product(block)
        at = (0, number * width)
        basis = jax.lax.dynamic_update_slice(basis, block, at)
        return basis, jax.lax.dynamic_update_slice(images, image, at), image

    empty = jnp.zeros((nodes, steps * width))
    start = jax.random.normal(jax.random.key(0), (nodes, width))
    basis, images, _ = jax.lax.fori_loop(0, steps, extend, (empty, empty, start))
    return basis, images
