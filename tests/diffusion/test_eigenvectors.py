"""The first eigenvectors of the normalised Laplacian against ARPACK's, in double precision."""

import jax
import numpy as np
import pytest
import scipy.sparse.linalg

from vsjax.diffusion.affinity import normalized_affinity
from vsjax.diffusion.eigenvectors import first_eigenvectors

SAME = 0.02  # eigenvalues so close are one: their eigenvectors may be turned among themselves


def pieces(random, count=4, size=150, width=7, bridges=0.0):
    """Groups with nothing in common, or next to nothing."""
    apart = np.kron(np.eye(count), np.ones((size, width)))
    features = apart * np.abs(random.normal(size=apart.shape))
    return np.abs(features + bridges * random.normal(size=features.shape))


def ring(nodes=600):
    """Every eigenvalue is there twice."""
    angle = 2 * np.pi * np.arange(nodes) / nodes
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


GRAPHS = {
    "cloud": lambda random: random.normal(size=(600, 12)),
    "groups": lambda random: np.repeat(random.normal(size=(6, 20)), 100, 0) + 0.3 * random.normal(size=(600, 20)),
    "tight groups": lambda random: np.repeat(random.normal(size=(6, 9)), 100, 0) + 0.01 * random.normal(size=(600, 9)),
    "pieces": pieces,
    "pieces with bridges": lambda random: pieces(random, bridges=1e-3),
    "ring": lambda random: ring(),
    "chain": lambda random: np.exp(-(((np.arange(600)[:, None] - np.linspace(0, 600, 80)) / 12) ** 2)),
    "few nodes": lambda random: random.normal(size=(60, 8)),
}


def reference(features, count):
    """Eigenvalues and eigenvectors of L by ARPACK, the trivial one left out."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    weights = np.maximum(unit @ unit.T, 0)
    root = np.sqrt(weights.sum(axis=1))
    normalized, trivial = weights / np.outer(root, root), root / np.linalg.norm(root)
    normalized -= 3 * np.outer(trivial, trivial)
    values, vectors = scipy.sparse.linalg.eigsh(normalized, k=count, which="LA", tol=1e-13)
    return 1 - values[::-1], vectors[:, ::-1]


@jax.jit
def find(features):
    return first_eigenvectors(*normalized_affinity(features), 5)


@pytest.mark.parametrize("name", GRAPHS)
def test_they_are_scipys(name):
    features = GRAPHS[name](np.random.default_rng(0)).astype(np.float32)
    features = np.pad(features, [(0, 0), (0, 80 - features.shape[1])])  # all alike, to be compiled once
    values, vectors = map(np.asarray, find(features))
    expected, basis = reference(features, 12)
    np.testing.assert_allclose(values, expected[:5], atol=1e-6)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-5)
    for value, vector in zip(expected, vectors.T, strict=False):
        same = basis[:, np.abs(expected - value) < SAME]
        assert not np.abs(expected[-1] - value) < SAME, "the group is not whole"
        np.testing.assert_allclose(same @ (same.T @ vector), vector, atol=1e-5)
        if same.shape[1] == 1:  # up to its sign
            np.testing.assert_allclose(vector * np.sign(vector @ same[:, 0]), same[:, 0], atol=1e-5)
    np.testing.assert_array_equal(find(features)[1], vectors)


def test_by_rows_it_is_the_same():
    random = np.random.default_rng(1)
    features, vectors = random.normal(size=(301, 6)), random.normal(size=(301, 3)).astype(np.float32)
    (stored, one), (by_rows, other) = (normalized_affinity(features, stored) for stored in (301, 64))
    np.testing.assert_allclose(by_rows(vectors), stored(vectors), atol=1e-6)
    np.testing.assert_allclose(one, other, atol=1e-7)
    np.testing.assert_allclose(stored(one[:, None])[:, 0], one, atol=1e-6)  # to the eigenvalue 1
