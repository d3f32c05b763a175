"""Spectral clustering of fields whose truth is known, with the features that need no weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from skimage.filters import threshold_otsu

from tests.diffusion.fields import overlap, uneven_field
from vsjax.diffusion.clustering import ClusteringSettings, cut_tiles, foreground, join_tiles, segment, synchronize
from vsjax.diffusion.patch_features import intensity_features

SETTINGS = ClusteringSettings(tile=128)
KEY = jax.random.key(0)


@jax.jit
def cluster(image, anchor):
    result = segment(image[None], intensity_features, anchor, KEY, SETTINGS)
    brightest = foreground(image, result.labels[0], SETTINGS.model_copy(update={"foreground": "brightest"}))
    return result.mask[0], result.labels[0], brightest


@pytest.fixture(scope="module")
def anchor():
    return uneven_field(100)[0]


def test_masks_where_otsu_fails(anchor):
    """Touching cells on an uneven background: clusters split by contrast, the brightest cluster, Otsu's threshold."""
    scores = {"split": [], "brightest": [], "otsu": []}
    for seed in range(5):
        image, truth = uneven_field(seed)
        mask, _, brightest = cluster(image, anchor)
        for name, found in (("split", mask), ("brightest", brightest), ("otsu", image > threshold_otsu(image))):
            scores[name].append(overlap(np.asarray(found), truth))
    print({name: np.round(values, 2).tolist() for name, values in scores.items()})
    assert min(scores["split"]) >= 0.8
    assert max(scores["otsu"]) <= 0.6
    assert np.mean(scores["brightest"]) < np.mean(scores["split"]) - 0.2


def agreement(one, other, match=False):
    """The share of the pixels to which two tiles give one label; `match`: after the best renaming."""
    table = np.zeros((SETTINGS.clusters, SETTINGS.clusters))
    np.add.at(table, (one.ravel(), other.ravel()), 1 / one.size)
    return table[linear_sum_assignment(-table)].sum() if match else np.trace(table)


def test_labels_agree_across_tiles_through_the_anchor(anchor):
    """Four tiles that share a quarter of their pixels each, with the anchor and each for itself."""
    image, _ = uneven_field(7, side=192, cells=14, slope=3)
    corners = list(itertools.product((0, 64), repeat=2))
    tiles = [image[y : y + 128, x : x + 128] for y, x in corners]
    scores = {}
    for name, anchors in (("anchored", [anchor] * 4), ("independent", tiles)):
        labels = [np.asarray(cluster(*pair)[1]) for pair in zip(tiles, anchors, strict=True)]
        shared = [found[64 - y : 128 - y, 64 - x : 128 - x] for found, (y, x) in zip(labels, corners, strict=True)]
        pairs = list(itertools.combinations(shared, 2))
        scores[name] = np.mean([agreement(*pair) for pair in pairs])
        scores[f"{name}, renamed"] = np.mean([agreement(*pair, match=True) for pair in pairs])
    print({name: round(float(value), 2) for name, value in scores.items()})
    assert scores["anchored"] > 0.7
    assert scores["independent"] < 0.5


def test_a_cluster_that_the_anchor_lacks_is_named_by_its_features():
    nodes = jnp.asarray([[1, 0], [1, 0], [1, 0], [0, 1], [0.1, 1], [0.2, 1], [1, 0.1]], jnp.float32)
    reference = jnp.asarray([2, 2, 2, 0])  # of the first four
    labels = jnp.asarray([1, 1, 2, 0, 3, 3, 1])  # cluster 3 has no patch of the anchor
    assert synchronize(nodes, labels, reference, 4)[:4].tolist() == [0, 2, 2, 0]


def test_each_pixel_is_of_the_tile_in_whose_middle_it_lies():
    image = jnp.arange(72 * 40).reshape(1, 72, 40)
    tiles = cut_tiles(image, 32)
    np.testing.assert_array_equal(join_tiles(tiles, (72, 40)), image)
    np.testing.assert_array_equal(tiles[0, 3], image[0, 20:52, 8:40])
    numbers = np.broadcast_to(np.arange(6)[:, None, None], (6, 32, 32))
    expected = np.repeat([[0, 1], [2, 3], [4, 5]], [26, 20, 26], axis=0).repeat([20, 20], axis=1)
    np.testing.assert_array_equal(join_tiles(numbers[None], (72, 40))[0], expected)


def test_no_foreground_where_there_is_none():
    """One cluster, clusters that are too small, and a constant image."""
    settings = ClusteringSettings(tile=32, least_pixels=10)
    labels = np.zeros((32, 32), np.int32)
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    assert not np.any(foreground(ramp, jnp.asarray(labels), settings))
    labels[-1, -9:] = 1
    assert not np.any(foreground(ramp, jnp.asarray(labels), settings))
    labels[-2] = 1
    assert not np.any(foreground(np.ones_like(ramp), jnp.asarray(labels), settings))
    np.testing.assert_array_equal(foreground(ramp, jnp.asarray(labels), settings), labels == 1)
