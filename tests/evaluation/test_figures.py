"""Figures: what can be measured in the picture itself, and the choices that lead to it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from skimage.io import imread

from vsjax.evaluation import figures
from vsjax.evaluation.level import Metric


@given(st.floats(1e-3, 1e5))
def test_scale_bar_is_round_and_between_a_tenth_and_a_third(width):
    length = figures.scale_bar_um(width)
    assert width / 10 < length <= width / 3 * 1.000001
    assert f"{length:.0e}"[0] in "125"
    assert length == pytest.approx(float(f"{length:.0e}"))


def test_slice_with_most_contrast_and_the_middle_of_equals():
    stack = np.zeros((7, 8, 8), np.float32)
    stack[5, :4] = 1
    assert figures.slice_to_show(stack) == 5
    assert figures.slice_to_show(np.repeat(stack[5:6], 13, axis=0)) == 6  # a projection repeated over z
    assert figures.slice_to_show(np.zeros((5, 4, 4), np.float32)) == 2
    assert figures.slice_to_show(np.full((3, 4, 4), np.nan, np.float32)) == 1


def test_view_of_a_large_image_shows_where_something_is():
    image = np.zeros((1024, 300), np.float32)
    assert figures.view_to_show(image) == (slice(256, 768), slice(0, 512))
    image[900:1000, 50:100] = 1
    assert figures.view_to_show(image) == (slice(512, 1024), slice(0, 512))


def panel(prediction, target, pixel_size_um=(0.5, 0.5)):
    source = np.random.default_rng(0).normal(100, 5, target.shape)
    return figures.Panel("best: A/1/0", source, target, prediction, pixel_size_um)


def draw(a_panel):
    axes = Figure().subplots(1, 4)
    figures._draw_panel(axes, a_panel)
    return axes


def test_target_and_prediction_share_one_contrast():
    """A prediction that is half as bright is drawn half as bright; stretched on its own it would look the same."""
    target = np.random.default_rng(1).gamma(2, 1, (160, 200))
    source, measured, predicted, difference = (axis.images[0] for axis in draw(panel(0.5 * target, target)))
    assert measured.get_clim() == predicted.get_clim() == tuple(np.percentile(target, [1, 99.8]))
    assert source.get_clim() != measured.get_clim()
    np.testing.assert_array_equal(difference.get_array(), -0.5 * target)
    assert difference.get_clim()[0] == -difference.get_clim()[1]


def test_contrast_of_a_part_is_that_of_the_whole_image():
    target = np.random.default_rng(1).normal(0, 1, (160, 200))
    target[:20] += 1000
    view = (slice(60, 160), slice(0, 100))
    axis = draw(dataclasses.replace(panel(target, target), view=view))[1]
    assert axis.images[0].get_clim() == tuple(np.percentile(target, [1, 99.8]))
    np.testing.assert_array_equal(axis.images[0].get_array(), target[view])


def test_scale_bar_has_the_length_that_its_label_says():
    axes = draw(panel(np.eye(160, 200), np.eye(160, 200), pixel_size_um=(0.25, 0.5)))
    (line,) = axes[0].lines
    left, right = line.get_xdata()
    assert axes[0].texts[0].get_text() == "20 µm"  # of the 100 µm that 200 pixels of 0.5 µm are
    assert (right - left) * 0.5 == pytest.approx(20)
    assert 0 < left < right < 200
    assert axes[0].get_aspect() == 0.5  # rows are half as high as columns are wide


def test_constant_and_nan_images_are_drawn(tmp_path):
    target = np.full((20, 30), np.nan, np.float32)
    figures.plot_panels(tmp_path / "a.png", "nuclei", "Phase", [panel(np.zeros_like(target), target)], "")
    assert imread(tmp_path / "a.png").std() > 0


def test_every_finite_value_is_one_dot(tmp_path):
    """Two channels far apart in value: their colours are in the picture; NaN and infinity do not stop it."""
    rows = [
        {"position": f"A/{n}/0", "time": 0, "channel": channel, "units": "target", "mse": value}
        for n, channel, value in [(1, "a", 1.0), (2, "a", np.nan), (1, "b", 1e6), (2, "b", np.inf)]
    ]
    figures.plot_metrics(tmp_path / "m.png", rows, {"mse": Metric("MSE", "", "lower")})
    image = imread(tmp_path / "m.png")[..., :3].astype(int)
    for color in figures.COLORS[:2]:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(image - wanted).max(axis=-1) < 45).sum() > 20, color
