"""Neural spectral clustering (DiffStain, section 2.2): masks of what is stained, from features of patches.

An image is cut into tiles. The patches of each are embedded together with those of an anchor, one tile that all share,
by the first eigenvectors of their graph, and clustered there; through the anchor's patches every tile's clusters are
named alike. What lies in the brightest clusters is foreground.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from vsjax.diffusion.affinity import normalized_affinity, unit_rows
from vsjax.diffusion.eigenvectors import first_eigenvectors
from vsjax.diffusion.kmeans import kmeans, nearest
from vsjax.diffusion.thresholds import gaussian, smooth
from vsjax.schema import Document

Features = Callable[[Array], Array]
_NO_CONTRAST = 1e-10  # between clusters: the image is constant, and what differs is rounding
_AT_ONCE = 2**25  # entries of affinities that are there at once: small graphs are decomposed several at a time


class ClusteringSettings(Document):
    """How an image is clustered; the numbers are the paper's."""

    tile: int = Field(224, ge=8, le=4096, description="pixels in Y and X of what is clustered at once")
    eigenvectors: int = Field(5, ge=1, le=64, description="dimensions of the embedding")
    clusters: int = Field(5, ge=2, le=64, description="of the patches of a tile and the anchor")
    least_pixels: int = Field(100, ge=1, le=2**31 - 1, description="of a cluster that may be foreground")
    foreground: Literal["split", "brightest"] = Field(
        "split",
        description="the clusters above the best split (Otsu's) of their mean contrasts to the surroundings, or the "
        "one of highest mean intensity as in the paper, which of large objects takes the inside only",
    )


class Segmentation(NamedTuple):
    """What clustering finds in images `[B, Y, X]`: the mask, bool, and the number of each pixel's cluster, int32, which
    means the same in every image that was clustered with the same anchor."""

    mask: Array
    labels: Array


def segment(images: Array, features: Features, anchor: Array, key: Array, settings: ClusteringSettings) -> Segmentation:
    """Cluster images and take their foreground.

    Args:
        images: `[B, Y, X]`, no smaller than a tile, intensities comparable with the anchor's.
        features: tiles `[N, tile, tile]` -> features `[N, h, w, D]` of their patches.
        anchor: `[tile, tile]`, an image that shows what there is.
        key: of the starts of k-means: the same for every tile, so that equal tiles get equal labels.
        settings: how.
    """
    labels = cluster_images(images, features, anchor, key, settings)
    return Segmentation(jax.vmap(lambda *pair: foreground(*pair, settings))(images, labels), labels)


def cluster_images(images: Array, features: Features, anchor: Array, key: Array, settings: ClusteringSettings) -> Array:
    """The number of each pixel's cluster, `[B, Y, X]`."""
    tiles = cut_tiles(images, settings.tile)
    found = cluster_tiles(tiles.reshape(-1, *tiles.shape[2:]), features, anchor, key, settings)
    return join_tiles(found.reshape(tiles.shape), images.shape[1:])


def cluster_tiles(tiles: Array, features: Features, anchor: Array, key: Array, settings: ClusteringSettings) -> Array:
    """The number of each pixel's cluster, `[N, tile, tile]`, as the anchor's clusters are numbered."""
    of_anchor = features(anchor[None])[0]
    grid, depth = of_anchor.shape[:2], of_anchor.shape[2]
    anchor_nodes = unit_rows(of_anchor.reshape(-1, depth))
    _, reference, _ = kmeans(embed(anchor_nodes, settings), settings.clusters, key)

    def cluster(tile: Array) -> Array:
        nodes = jnp.concatenate([anchor_nodes, unit_rows(features(tile[None]).reshape(-1, depth))])
        embedding = embed(nodes, settings)
        centres, labels, _ = kmeans(embedding, settings.clusters, key)
        names = synchronize(nodes, labels, reference, settings.clusters)
        plane = embedding[len(anchor_nodes) :].reshape(*grid, -1)
        plane = jax.image.resize(plane, (settings.tile, settings.tile, plane.shape[-1]), "linear")
        return names[nearest(plane, centres)]

    limit = max(1, _AT_ONCE // (2 * len(anchor_nodes)) ** 2)
    return jax.lax.map(cluster, tiles, batch_size=max(n for n in range(1, limit + 1) if len(tiles) % n == 0))


def embed(nodes: Array, settings: ClusteringSettings) -> Array:
    """The first eigenvectors of a graph: `[N, D] -> [N, eigenvectors]`."""
    return first_eigenvectors(*normalized_affinity(nodes), settings.eigenvectors)[1]


def synchronize(nodes: Array, labels: Array, reference: Array, clusters: int) -> Array:
    """What each cluster of the anchor and a tile is called in the anchor's own clustering (the paper's theta).

    The one with which it shares most of the anchor's patches; where it has none of these, the one whose mean feature is
    most like its own.

    Args:
        nodes: `[N, D]`, the anchor's first.
        labels: `[N]`, of all.
        reference: `[n]`, of the anchor's alone.
        clusters: how many.

    Returns:
        `[clusters]`, int32.
    """
    mine, theirs = jax.nn.one_hot(labels, clusters), jax.nn.one_hot(reference, clusters)
    with jax.default_matmul_precision("highest"):
        shared = mine[: len(reference)].T @ theirs
        likeness = unit_rows(mine.T @ nodes) @ unit_rows(theirs.T @ nodes[: len(reference)]).T
    return (shared + likeness / 4).argmax(axis=1).astype(jnp.int32)


def foreground(image: Array, labels: Array, settings: ClusteringSettings) -> Array:
    """The mask of one image from its labels, `[Y, X]` each: clusters of at least so many pixels. Nothing is foreground
    where there are fewer than two."""
    if settings.foreground == "split":
        image = contrast(image, settings.tile)
    flat, clusters = labels.reshape(-1), settings.clusters
    sizes = jax.ops.segment_sum(jnp.ones_like(flat, jnp.float32), flat, clusters)
    means = jax.ops.segment_sum(image.reshape(-1), flat, clusters) / jnp.maximum(sizes, 1)
    counted = sizes >= settings.least_pixels
    if settings.foreground == "brightest":
        least = jnp.where(counted, means, -jnp.inf).max()
    else:
        least = _split(means, jnp.where(counted, sizes, 0))
    chosen = counted & (means >= least) & (counted.sum() > 1)
    return chosen[labels]


def contrast(image: Array, tile: int) -> Array:
    """How far an image `[Y, X]` is above the mean of its surroundings, a Gaussian whose deviation is an eighth of a
    tile: so neither an uneven background decides nor how much darker it looks beside what is bright."""
    return jnp.maximum(image - smooth(image, gaussian(tile / 8)), 0)


def _split(means: Array, sizes: Array) -> Array:
    """The least of the means above the split whose two sides differ most (Otsu's variance between classes)."""
    above = (means >= means[:, None]) * sizes
    below = sizes - above
    total = sizes.sum()
    high, low = above.sum(axis=1), below.sum(axis=1)
    gap = (above @ means) / jnp.maximum(high, 1) - (below @ means) / jnp.maximum(low, 1)
    between = jnp.where(sizes > 0, high * low * jnp.square(gap) / jnp.square(jnp.maximum(total, 1)), -1)
    return jnp.where(between.max() > _NO_CONTRAST, means[between.argmax()], jnp.inf)


def tile_starts(length: int, size: int) -> list[int]:
    """Where tiles of `size` begin that cover `length` pixels: as few as can be, evenly, the last at the end."""
    count = math.ceil(length / size)
    return [round(number * (length - size) / max(1, count - 1)) for number in range(count)]


def cut_tiles(images: Array, size: int) -> Array:
    """Images `[B, Y, X]` in tiles that cover them: `[B, tiles, size, size]`, row by row."""
    tops, lefts = (tile_starts(length, size) for length in images.shape[1:])
    return jnp.stack([images[:, y : y + size, x : x + size] for y in tops for x in lefts], axis=1)


def join_tiles(tiles: Array, plane: tuple[int, int]) -> Array:
    """Tiles of `cut_tiles` as images `[B, *plane]`: each pixel from the tile in whose middle it lies most."""
    size = tiles.shape[-1]
    (row, y), (column, x) = (_tile_of_pixels(length, size) for length in plane)
    columns = len(tile_starts(plane[1], size))
    return tiles[:, row[:, None] * columns + column, y[:, None], x]


def _tile_of_pixels(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis: each pixel's tile, the first of two, and its place in it."""
    pixels, starts = np.arange(length), np.array(tile_starts(length, size))
    tile = np.abs(pixels[:, None] + 0.5 - (starts + size / 2)).argmin(axis=1)
    return tile, pixels - starts[tile]
