"""k-means against all partitions there are, and against SciPy's on more points."""

import itertools

import jax
import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from vsjax.diffusion import kmeans as module

kmeans = jax.jit(module.kmeans, static_argnames=("clusters", "restarts", "iterations"))


def inertia_of(points, labels):
    return sum(np.square(points[labels == label] - points[labels == label].mean(axis=0)).sum() for label in set(labels))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_better_of_few_points(seed):
    points = np.random.default_rng(seed).normal(size=(8, 2)).astype(np.float32)
    best = min(inertia_of(points, np.array(labels)) for labels in itertools.product(range(3), repeat=8))
    _, labels, inertia = kmeans(points, 3, jax.random.key(seed), restarts=64)
    assert float(inertia) == pytest.approx(best, rel=1e-5)
    assert inertia_of(points, np.asarray(labels)) == pytest.approx(best, rel=1e-5)


def test_as_good_as_the_best_of_many_of_scipys():
    random = np.random.default_rng(0)
    points = np.repeat(random.normal(size=(6, 5)), 100, axis=0) + 0.4 * random.normal(size=(600, 5))
    theirs = (kmeans2(points, 6, minit="++", rng=np.random.default_rng(seed), iter=40)[1] for seed in range(20))
    _, labels, inertia = kmeans(points.astype(np.float32), 6, jax.random.key(0))
    assert float(inertia) <= 1.0001 * min(inertia_of(points, labels) for labels in theirs)
    np.testing.assert_array_equal(kmeans(points.astype(np.float32), 6, jax.random.key(0))[1], labels)


def test_fewer_points_than_clusters():
    """Some clusters are empty; nothing becomes NaN."""
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    centres, labels, inertia = kmeans(points, 5, jax.random.key(0))
    assert float(inertia) == 0
    np.testing.assert_array_equal(np.asarray(centres)[np.asarray(labels)], points)
