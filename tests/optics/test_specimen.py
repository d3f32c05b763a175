"""Specimens: volumes against geometry, and what must hold for every population of cells."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vsjax.errors import UserError
from vsjax.optics.cells import Body, CellModel, move_cells, place_cells, random_cell
from vsjax.optics.specimen import draw_specimen

PIXEL = (0.4, 0.3, 0.3)
VOXEL_UM3 = 0.4 * 0.3 * 0.3
MODEL = CellModel()


def ellipsoid_cell(centre_um, half_axes, nucleus_half_axes=(1.5, 2.0, 2.5), angle=0.0):
    cell = random_cell(np.random.default_rng(0), MODEL, np.zeros(2), 7.0)
    return replace(
        cell,
        centre_um=np.array(centre_um, float),
        body=Body(np.zeros(3), np.array(half_axes, float), angle),
        nucleus=Body(np.array([0.2, -0.3, 0.4]), np.array(nucleus_half_axes, float), angle),
    )


@pytest.fixture(scope="module")
def population():
    """Cells that partly lie beyond the border, and what was drawn of them."""
    shape = (32, 200, 210)
    cells = place_cells(np.random.default_rng(5), MODEL, (shape[1] * PIXEL[1], shape[2] * PIXEL[2]))
    return cells, draw_specimen(cells, shape, PIXEL, MODEL)


def test_volumes_are_those_of_ellipsoids():
    drawn = draw_specimen([ellipsoid_cell((0.1, -0.2, 0.3), (4.0, 6.0, 8.0), angle=0.7)], (32, 80, 80), PIXEL, MODEL)
    cells, nuclei = (np.count_nonzero(drawn.labels[k]) * VOXEL_UM3 for k in ("cells", "nuclei"))
    assert cells == pytest.approx(4 / 3 * np.pi * 4 * 6 * 8, rel=0.01)
    assert nuclei == pytest.approx(4 / 3 * np.pi * 1.5 * 2 * 2.5, rel=0.02)


def test_centres_and_principal_axes_are_those_asked_for():
    drawn = draw_specimen([ellipsoid_cell((0.5, -2.0, 3.0), (4.0, 5.0, 8.0), angle=0.5)], (32, 90, 90), PIXEL, MODEL)
    voxels = np.argwhere(drawn.labels["cells"])
    points = (voxels - (np.array(drawn.shape) - 1) / 2) * PIXEL
    np.testing.assert_allclose(points.mean(0), [0.5, -2.0, 3.0], atol=0.05)
    # A solid ellipsoid's second moments are a²/5; its long axis makes the stated angle with x.
    values, vectors = np.linalg.eigh(np.cov(points[:, 1:].T))
    np.testing.assert_allclose(np.sqrt(5 * values), [5, 8], rtol=0.02)
    long = vectors[:, 1]
    assert abs(long @ [np.sin(0.5), np.cos(0.5)]) == pytest.approx(1, abs=0.01)


def test_two_touching_balls_share_the_plane_between_them():
    balls = [ellipsoid_cell((0, 0, -4.0), (5, 5, 5)), ellipsoid_cell((0, 0, 4.0), (5, 5, 5))]
    drawn = draw_specimen(balls, (32, 50, 80), PIXEL, MODEL)
    z, y, x = ((np.arange(n) - (n - 1) / 2) * p for n, p in zip(drawn.shape, PIXEL, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    left, right = (np.sqrt(z**2 + y**2 + (x - c) ** 2) for c in (-4, 4))
    expected = np.where(np.minimum(left, right) >= 5, 0, np.where(left < right, 1, 2))
    assert np.mean(drawn.labels["cells"] != expected) < 1e-4  # voxels on a surface, by rounding


def test_every_granule_lies_in_its_cell():
    rng = np.random.default_rng(3)
    for _ in range(20):
        cell = random_cell(rng, MODEL.model_copy(update={"roughness": 0.0}), np.zeros(2), 8.0)
        rho = cell.body.rho(*cell.blobs[:, :3].T)
        assert rho.max() < 0.935
        assert rho.max() > 0.8


def test_nuclei_lie_in_their_own_cells_with_cytoplasm_all_around(population):
    _, drawn = population
    nuclei, cells = drawn.labels["nuclei"], drawn.labels["cells"]
    assert nuclei.any()
    np.testing.assert_array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    for number in np.unique(nuclei)[1:6]:
        around = ndimage.distance_transform_edt(np.pad(cells == number, 1, mode="edge"), PIXEL)[1:-1, 1:-1, 1:-1]
        # Measured along the radius; across it, and to voxel centres, a little less.
        assert around[nuclei == number].min() > 0.6 * MODEL.nucleus_margin_um


def test_stain_is_exactly_where_its_label_is(population):
    _, drawn = population
    np.testing.assert_array_equal(drawn.fluorophores["nuclei"] > 0, drawn.labels["nuclei"] > 0)
    assert not drawn.fluorophores["membrane"][drawn.labels["cells"] == 0].any()
    organelles = drawn.fluorophores["organelles"] > 0.5
    assert not organelles[(drawn.labels["cells"] == 0) | (drawn.labels["nuclei"] > 0)].any()
    cytoplasm = (drawn.labels["cells"] > 0) & (drawn.labels["nuclei"] == 0)
    index = drawn.refractive_index
    assert index[organelles].mean() > index[cytoplasm & ~organelles].mean() + 0.008  # what is stained refracts


def test_membrane_stain_is_a_thin_shell(population):
    _, drawn = population
    bright = drawn.fluorophores["membrane"] > 0.3
    depth = ndimage.distance_transform_edt(drawn.labels["cells"] > 0, PIXEL)
    lone = ndimage.minimum_filter(drawn.labels["cells"], 5) == ndimage.maximum_filter(drawn.labels["cells"], 5)
    assert bright.any()
    assert not bright[lone & (depth > 6 * MODEL.membrane_um)].any()


def test_without_debris_the_medium_is_empty(population):
    _, drawn = population
    outside = drawn.labels["cells"] == 0
    np.testing.assert_array_equal(drawn.refractive_index[outside], np.float32(drawn.medium_index))
    inside = drawn.refractive_index[~outside] - drawn.medium_index
    assert 0.01 < inside.mean() < 0.03


def test_nuclei_are_optically_thinner_than_cytoplasm(population):
    _, drawn = population
    nuclei, cells = drawn.labels["nuclei"] > 0, drawn.labels["cells"] > 0
    core = ndimage.binary_erosion(cells, iterations=4)
    assert drawn.refractive_index[nuclei].mean() < drawn.refractive_index[core & ~nuclei].mean() - 0.004


def test_every_whole_cell_is_one_piece_with_one_nucleus(population):
    cells, drawn = population
    half = np.array(drawn.shape[1:]) * PIXEL[1:] / 2
    whole = [i for i, cell in enumerate(cells, 1) if np.all(np.abs(cell.centre_um[1:]) < half - 11)]
    assert len(whole) >= 5
    for number in whole:
        for name, least in (("cells", 400), ("nuclei", 40)):
            mask = drawn.labels[name] == number
            pieces, count = ndimage.label(mask)
            largest = np.bincount(pieces.ravel())[1:].max()
            assert count == 1 or largest > 0.995 * mask.sum()
            assert mask.sum() * VOXEL_UM3 > least


def test_no_cell_leaves_the_layer_made_for_them(population):
    _, drawn = population
    z = np.flatnonzero(drawn.labels["cells"].any((1, 2)))
    layers = (z - (drawn.shape[0] - 1) / 2) * PIXEL[0]
    assert layers.min() > -MODEL.layer_um / 2
    assert layers.max() < MODEL.layer_um / 2


def test_moving_the_cells_by_a_pixel_moves_the_drawing_by_a_pixel(population):
    cells, drawn = population
    step = np.array([0, 2 * PIXEL[1], -3 * PIXEL[2]])
    moved = draw_specimen([replace(c, centre_um=c.centre_um + step) for c in cells], drawn.shape, PIXEL, MODEL)
    for name in ("cells", "nuclei"):
        same = moved.labels[name][:, 2:, :-3] == drawn.labels[name][:, :-2, 3:]
        assert same.mean() > 0.9999
    difference = moved.refractive_index[:, 2:, :-3] - drawn.refractive_index[:, :-2, 3:]
    assert np.abs(difference).mean() < 1e-5


def test_debris_lies_beside_the_cells_only(population):
    cells, clean = population
    dirty = draw_specimen(cells, clean.shape, PIXEL, MODEL, debris_seed=[1])
    changed = dirty.refractive_index != clean.refractive_index
    assert changed.any()
    assert dirty.absorption_per_um.any()
    assert not changed[clean.labels["cells"] > 0].any()
    np.testing.assert_array_equal(dirty.labels["cells"], clean.labels["cells"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.floats(30, 120), width=st.floats(30, 120))
def test_cells_keep_their_distance_also_when_they_move(seed, height, width):
    rng = np.random.default_rng(seed)
    cells = place_cells(rng, MODEL, (height, width))

    def slack(cells):
        centres, radii = np.array([c.centre_um[1:] for c in cells]), np.array([c.radius_um for c in cells])
        distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        np.fill_diagonal(distance, np.inf)
        return (distance - MODEL.crowding * (radii[:, None] + radii[None])).min()

    assert slack(cells) > -1e-9
    moved = move_cells(rng, MODEL, cells)
    assert slack(moved) > -0.5
    steps = np.array([b.centre_um - a.centre_um for a, b in zip(cells, moved, strict=True)])
    assert not steps[:, 0].any()
    assert 0 < np.abs(steps).max() < 5


def test_the_density_asked_for_is_kept_or_refused():
    cells = place_cells(np.random.default_rng(0), MODEL, (100.0, 200.0), cells_per_um2=0.001)
    assert len(cells) == 20
    with pytest.raises(UserError, match="--cells"):
        place_cells(np.random.default_rng(0), MODEL, (100.0, 200.0), cells_per_um2=0.02)
