"""Tiles: weights that sum to one, exactness for a local network, padding that is undone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vsjax.errors import UserError
from vsjax.inference.tiling import Padding, choose_margin, plan_tiles, predict_tiles

sides = st.integers(1, 20)


def one_by_one(network):
    """A network of one volume, applied to each tile."""
    return lambda volumes, corners: np.stack([network(volume) for volume in volumes])


@settings(deadline=None, max_examples=80)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.sampled_from([1, 2, 8]), st.integers(0, 5), st.data())
def test_constant_one_stays_exactly_one(cells, tile, divisor, margin, data):
    shape = tuple(n * divisor for n in cells)
    tile = tuple(max(n * divisor, 2 * margin + divisor) for n in tile)
    ramp = data.draw(st.integers(0, 2 * margin))
    tiles = plan_tiles(shape, tile, (divisor, divisor), margin, ramp)
    output = predict_tiles(
        lambda v, corners: np.ones((*v.shape[:4], 2), np.float32), np.zeros((1, *shape, 1), np.float32), tiles, 3
    )
    assert np.array_equal(output, np.ones((1, *shape, 2), np.float32))
    total = np.zeros(shape)
    for tile in tiles:
        total[tile.y, tile.x] += tile.weight
        assert tile.y.start % divisor == 0
        assert tile.x.start % divisor == 0
    if all(ramp <= cut_distance({place(t).start for t in tiles}) for place in (lambda t: t.y, lambda t: t.x)):
        np.testing.assert_allclose(total, 1, atol=1e-6)  # ramps that do not meet need no division


def cut_distance(starts):
    """The smallest distance between neighbouring cuts; a cut lies in the middle of the overlap of two tiles."""
    starts = sorted(starts)
    return min(((after - before) / 2 for before, after in zip(starts, starts[2:], strict=False)), default=np.inf)


@pytest.mark.parametrize("ramp", [0, 4])
def test_local_network_is_tiled_exactly(ramp):
    """A filter of radius 3 needs a margin of 3 beyond half the ramp: the result is the whole image's, to the bit
    where the cut is hard."""
    image = np.random.default_rng(0).normal(size=(2, 48, 56, 1)).astype(np.float32)
    margin = 3 + ramp // 2

    def network(volume):
        return ndimage.median_filter(volume, (1, 7, 7, 1), mode="constant", cval=100)

    whole = network(image)
    tiles = plan_tiles((48, 56), (24, 32), (4, 4), margin, ramp)
    assert len(tiles) > 4
    found = predict_tiles(one_by_one(network), image, tiles)
    np.testing.assert_allclose(found, whole, rtol=0, atol=0 if ramp == 0 else 1e-6)
    narrow = plan_tiles((48, 56), (24, 32), (4, 4), margin - 1, 2 * (margin - 1))
    with pytest.raises(AssertionError):  # one pixel less shows at the seams: the test above can fail
        np.testing.assert_allclose(predict_tiles(one_by_one(network), image, narrow), whole, atol=1e-6)


def test_strided_network_is_tiled_exactly():
    """Tiles start at multiples of the divisor, so that a network that samples every 4th pixel sees the same ones."""
    image = np.random.default_rng(1).normal(size=(1, 40, 40, 1)).astype(np.float32)

    def network(volume):
        return np.repeat(np.repeat(volume[:, ::4, ::4], 4, axis=1), 4, axis=2)

    tiles = plan_tiles((40, 40), (16, 24), (4, 4), margin=4, ramp=0)
    for together in (1, 4, len(tiles)):
        assert np.array_equal(predict_tiles(one_by_one(network), image, tiles, together), network(image))


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 32]))
def test_padding_is_minimal_reflected_and_undone(y, x, divisor):
    image = np.random.default_rng(y * 100 + x).normal(size=(1, y, x, 1)).astype(np.float32)
    padding = Padding.to_divisor((y, x), (divisor, divisor))
    padded = padding.pad(image)
    assert padded.shape[1:3] == tuple(-(-n // divisor) * divisor for n in (y, x))
    assert np.array_equal(padding.crop(padded), image)
    assert set(np.unique(padded)) == set(np.unique(image))  # nothing is invented
    if padding.y[0] and padding.y[0] < y:
        assert np.array_equal(padded[:, padding.y[0] - 1, padding.x[0] : padding.x[0] + x], image[:, 1])


def test_tile_smaller_than_its_margins_says_what_would_do():
    with pytest.raises(UserError, match="at least 160"):
        plan_tiles((512, 512), (96, 96), (32, 32), margin=64, ramp=64)


@pytest.mark.parametrize(
    ("margin", "radius", "tile", "expected"),
    [
        (None, 20, (256, 256), (20, 0)),  # exact, and no wider than needed
        (30, 20, (256, 256), (30, 20)),  # what is left over blends
        (80, 20, (256, 256), (80, 80)),
        (10, 20, (256, 256), (10, 10)),  # too narrow: blended
        (None, None, (256, 512), (64, 64)),
        (None, None, (2048, 2048), (128, 128)),
        (32, None, (2048, 2048), (32, 32)),
    ],
)
def test_margin_follows_the_receptive_field(margin, radius, tile, expected):
    assert choose_margin(margin, radius, tile) == expected
