"""Image formation against wave optics done the long way, conservation laws and noise statistics."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import j1

from vsjax.optics import imaging
from vsjax.optics.imaging import Camera, Microscope
from vsjax.optics.specimen import Specimen

PIXEL = (0.5, 0.25, 0.25)


def specimen(shape=(9, 64, 64), index=None, absorption=None, stain=None):
    empty = np.zeros(shape, np.float32)
    return Specimen(
        refractive_index=(empty if index is None else index.astype(np.float32)) + np.float32(1.337),
        absorption_per_um=empty if absorption is None else absorption.astype(np.float32),
        fluorophores={"nuclei": empty if stain is None else stain.astype(np.float32)},
        labels={},
        pixel_size_um=PIXEL,
        medium_index=1.337,
    )


def abbe(layer: np.ndarray, defocus: float, microscope: Microscope) -> np.ndarray:
    """Intensity of a thin complex-transmitting layer: one full wave per source point, each on a Fourier bin."""
    n = layer.shape[0]
    f = np.fft.fftfreq(n, PIXEL[1])
    fy, fx = np.meshgrid(f, f, indexing="ij")
    y, x = np.meshgrid(np.arange(n) * PIXEL[1], np.arange(n) * PIXEL[1], indexing="ij")
    wavelength, index = microscope.illumination_um, microscope.medium_index
    squared = fy**2 + fx**2
    axial = np.sqrt(np.maximum((index / wavelength) ** 2 - squared, 0))
    pupil = (squared <= (microscope.objective_na / wavelength) ** 2) * np.exp(2j * np.pi * defocus * axial)
    source = np.argwhere(squared <= (microscope.condenser_na / wavelength) ** 2)
    total = np.zeros(layer.shape)
    for row, column in source:
        wave = np.exp(2j * np.pi * (fy[row, column] * y + fx[row, column] * x))
        total += np.abs(np.fft.ifft2(np.fft.fft2(wave * layer) * pupil)) ** 2
    return total / len(source)


@pytest.mark.parametrize("focus", [1, 4, 7])
@pytest.mark.parametrize("kind", ["phase", "absorption"])
def test_brightfield_is_the_weak_limit_of_partially_coherent_imaging(kind, focus):
    rng = np.random.default_rng(0)
    thin = np.zeros((9, 64, 64))
    y, x = np.mgrid[:64, :64]
    for cy, cx in rng.uniform(16, 48, (5, 2)):
        thin[4] += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.0**2))
    microscope = Microscope()
    if kind == "phase":
        seen = specimen(index=1e-4 * thin)
        layer = np.exp(1j * 2 * np.pi / microscope.illumination_um * 1e-4 * thin[4] * PIXEL[0])
    else:
        seen = specimen(absorption=1e-3 * thin)
        layer = np.exp(-1e-3 * thin[4] * PIXEL[0])
    got = imaging.brightfield(seen, microscope, [focus])[0] - 1
    expected = abbe(layer, (focus - 4) * PIXEL[0], microscope) - 1
    if kind == "phase" and focus == 4:
        assert np.abs(got).max() < 1e-6
        assert np.abs(expected).max() < 1e-6
        return
    assert np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)


def test_an_empty_fov_is_evenly_bright():
    np.testing.assert_allclose(imaging.brightfield(specimen(), Microscope(), [0, 4]), 1, atol=1e-6)


def test_an_absorbing_slab_obeys_beer_and_lambert():
    # Amplitude coefficient 0.001/µm over 9 layers of 0.5 µm: 1 - 2 × 0.0045.
    image = imaging.brightfield(specimen(absorption=np.full((9, 64, 64), 1e-3)), Microscope(), [0, 8])
    np.testing.assert_allclose(image, 1 - 2 * 1e-3 * 4.5, atol=1e-5)


def test_a_dense_bead_focuses_light_behind_itself():
    # z grows along the light: a bead of higher index is a lens, bright after it and dark before it.
    z, y, x = np.mgrid[:13, :64, :64]
    bead = 0.005 * (((z - 6) * 0.5) ** 2 + ((y - 32) * 0.25) ** 2 + ((x - 32) * 0.25) ** 2 < 1.0)
    before, after = imaging.brightfield(specimen(bead.shape, index=bead), Microscope(), [1, 11])[:, 32, 32]
    assert before < 0.99 < 1.01 < after
    assert before - 1 == pytest.approx(1 - after, rel=1e-3)  # a symmetric weak object


def test_imaging_is_linear_and_moves_with_the_specimen():
    rng = np.random.default_rng(1)
    a, b = 1e-3 * rng.normal(size=(2, 9, 64, 64))
    optics = Microscope()
    image = {
        k: imaging.brightfield(specimen(index=v), optics, [2]) - 1 for k, v in {"a": a, "b": b, "ab": a + b}.items()
    }
    np.testing.assert_allclose(image["ab"], image["a"] + image["b"], atol=2e-6)
    moved = imaging.brightfield(specimen(index=np.roll(a, (5, -7), (1, 2))), optics, [2]) - 1
    np.testing.assert_allclose(moved, np.roll(image["a"], (5, -7), (1, 2)), atol=2e-6)


def test_widefield_fluorescence_keeps_the_light_in_every_plane():
    rng = np.random.default_rng(2)
    stain = np.zeros((9, 64, 64))
    stain[rng.integers(0, 9, 40), rng.integers(0, 64, 40), rng.integers(0, 64, 40)] = rng.uniform(1, 5, 40)
    smooth = np.fft.irfft2(
        np.fft.rfft2(stain)
        * np.exp(-(np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.rfftfreq(64), indexing="ij")) ** 2) * 200),
        s=(64, 64),
    )
    planes = imaging.fluorescence(specimen(stain=smooth), Microscope(), "nuclei", range(9))
    np.testing.assert_allclose(planes.sum((1, 2)), smooth.sum() * PIXEL[0], rtol=1e-4)


def test_a_fluorescent_point_is_sharpest_in_focus_and_an_airy_disc_there():
    stain = np.zeros((9, 64, 64))
    stain[4, 32, 32] = 1
    optics = Microscope()
    planes = imaging.fluorescence(specimen(stain=stain), optics, "nuclei", range(9))
    peak = planes[:, 32, 32]
    assert peak.argmax() == 4
    np.testing.assert_allclose(peak, peak[::-1], rtol=1e-4)
    assert peak[0] < 0.6 * peak[4]
    r = np.arange(1, 6) * PIXEL[2]
    v = 2 * np.pi * optics.objective_na / 0.46 * r
    np.testing.assert_allclose(planes[4, 32, 33:38] / peak[4], (2 * j1(v) / v) ** 2, atol=0.02)


def test_a_defocused_fluorescent_point_is_the_squared_pupil_transform():
    n, pixel, optics = 128, 0.2, Microscope()
    stain = np.zeros((13, n, n), np.float32)
    stain[6, 0, 0] = 1 / PIXEL[0]
    point = replace(specimen(stain.shape, stain=stain), pixel_size_um=(PIXEL[0], pixel, pixel))
    got = imaging.fluorescence(point, optics, "nuclei", [2, 6, 12])
    f = np.fft.fftfreq(n, pixel)
    squared = f[:, None] ** 2 + f[None] ** 2
    inside = squared <= (optics.objective_na / 0.46) ** 2
    axial = np.sqrt((optics.medium_index / 0.46) ** 2 - squared * inside)
    for image, layers in zip(got, (-4, 0, 6), strict=True):
        psf = np.abs(np.fft.ifft2(inside * np.exp(2j * np.pi * axial * layers * PIXEL[0]))) ** 2
        psf /= psf.sum()
        np.testing.assert_allclose(image, psf, atol=0.02 * psf.max())


def test_phase_density_of_a_uniform_slab():
    got = imaging.phase_density(specimen(index=np.full((9, 64, 64), 0.02)), Microscope(), [0, 4])
    np.testing.assert_allclose(got, 2 * np.pi * 0.02 / 0.53, rtol=1e-4)


def test_camera_noise_has_the_variance_of_photon_counting():
    camera = Camera(gain=2.5, offset=100, read_noise=3)
    for electrons in (0.0, 20.0, 1000.0):
        counts = imaging.record(np.full(200_000, electrons, np.float32), camera, np.random.default_rng(3)).astype(float)
        variance = 2.5**2 * electrons + 3**2 + 1 / 12  # Poisson, read-out, rounding
        assert counts.mean() == pytest.approx(100 + 2.5 * electrons, abs=5 * np.sqrt(variance / 200_000))
        assert counts.var() == pytest.approx(variance, rel=0.02)


def test_camera_saturates_and_never_goes_below_zero():
    camera = Camera(offset=0, read_noise=50, largest_count=4095)
    counts = imaging.record(np.array([0.0] * 50 + [1e6]), camera, np.random.default_rng(4))
    assert counts.dtype == np.uint16
    assert counts[-1] == 4095
    assert counts[:50].min() == 0
    assert counts[:50].max() < 500


def test_the_corners_lose_the_stated_light():
    light = imaging.vignette((101, 81), 0.06)
    assert light[50, 40] == 1
    np.testing.assert_allclose([light[0, 0], light[-1, 0], light[0, -1]], 0.94, atol=1e-6)
