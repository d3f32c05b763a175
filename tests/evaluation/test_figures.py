"""Figures: what can be measured in the picture itself, and the choices that lead to it."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from skimage.io import imread

from vsjax.evaluation import feature_pictures, figures
from vsjax.evaluation.level import Metric
from vsjax.evaluation.panels import _file_names
from vsjax.training import panels as training_panels


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


@pytest.mark.parametrize("shape", [(300, 3), (1, 1), (1, 100_000)])
def test_a_figure_is_bounded_whatever_the_image(tmp_path, shape):
    """By its pixels: at (300, 3) it took 2 GB and half a minute."""
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    one = dataclasses.replace(panel(image, image), view=figures.view_to_show(image))
    figures.plot_panels(tmp_path / "a.png", "nuclei", "Phase", [one] * 3, "")
    pictures = [[feature_pictures.Picture("a", image)] * 40, [feature_pictures.Picture("b", image)]]
    feature_pictures.draw(tmp_path / "b.png", pictures, (0.5, 0.5), shape, "runs/a")
    for name in ("a", "b"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width * picture.height < 1.1 * figures.FIGURE_PIXELS
            assert picture.getextrema()[0][0] < 200  # something is drawn
    shown = training_panels.panel({"source": np.repeat(image[None, ..., None], 40, axis=-1)})
    assert shown.size < 40 * 3 * 600 * 600


def test_four_thousand_channels_are_drawn_in_time(tmp_path):
    rows = [
        {"position": "A/1/0", "time": 0, "channel": f"c{n}", "units": "target", "mse": float(n)} for n in range(4000)
    ]
    begin = time.process_time()
    figures.plot_metrics(tmp_path / "m.png", rows, {"mse": Metric("MSE", "", "lower")})
    assert time.process_time() - begin < 20
    assert imread(tmp_path / "m.png").std() > 0


@pytest.mark.parametrize("name", ["$\\frac$", "x" * 100_000, "a\nb", "\ud800", "$a$ \\$"])
def test_names_that_are_no_formula_and_no_line(tmp_path, name):
    image = np.eye(20, 30)
    one = dataclasses.replace(panel(image, image), label=f"best: {name}\nPearson 1")
    figures.plot_panels(tmp_path / "a.png", name, name, [one], "")
    rows = [{"position": name, "time": 0, "channel": name, "units": "target", "mse": 1.0}]
    figures.plot_metrics(tmp_path / "m.png", rows, {"mse": Metric("MSE", "", "lower")})
    feature_pictures.draw(tmp_path / "b.png", [[feature_pictures.Picture(name, image)]], (0.5, 0.5), (20, 30), name)
    for file in ("a", "m", "b"):
        assert imread(tmp_path / f"{file}.png").std() > 0


def test_files_of_many_channels_have_short_names_of_their_own():
    names = _file_names("pixel", ["x" * 300 + str(n) for n in range(20)] + ["a/b", "a b"])
    assert len(set(names.values())) == 22
    assert max(map(len, names.values())) < 100
