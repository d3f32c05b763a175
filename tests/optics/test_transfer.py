"""Transfer functions against their analytic limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsjax.optics.transfer import plane_transfer, radial_transfer, source_points

OPTICS = {"objective_na": 0.55, "source_na": 0.4, "wavelength_um": 0.53, "medium_index": 1.337}
CUT_OFF = (0.55 + 0.4) / 0.53


def test_phase_is_invisible_in_focus_and_absorption_is_not():
    transfer = radial_transfer(np.linspace(0, CUT_OFF, 60), np.zeros(1), **OPTICS)[0]
    np.testing.assert_allclose(transfer.imag, 0, atol=1e-14)
    assert transfer.real[30] > 0.1


def test_uniform_objects_have_the_same_contrast_at_every_focus():
    # An absorbing slab dims the image by the same amount wherever it lies; a uniform phase is never seen.
    transfer = radial_transfer(np.zeros(1), np.linspace(-20, 20, 9), **OPTICS)[:, 0]
    np.testing.assert_allclose(transfer, 1, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(defocus=st.floats(0.05, 20), condenser=st.floats(0, 0.55))
def test_opposite_defocus_is_the_complex_conjugate(defocus, condenser):
    optics = OPTICS | {"source_na": condenser}
    plus, minus = radial_transfer(np.linspace(0, 2, 25), np.array([defocus, -defocus]), **optics)
    np.testing.assert_allclose(plus, minus.conj(), atol=1e-12)


def test_nothing_passes_beyond_the_cut_off():
    frequencies = np.array([CUT_OFF * 0.97, CUT_OFF * 1.001, 2 * CUT_OFF])
    below, above, far = radial_transfer(frequencies, np.zeros(1), **OPTICS)[0]
    assert below.real > 0
    assert above == far == 0


def test_full_condenser_gives_the_diffraction_limited_transfer_function():
    # Goodman: 2/π (acos v - v sqrt(1 - v²)) with v = u/(2 NA/λ).
    v = np.linspace(0, 1, 50)
    transfer = radial_transfer(v * 2 * 0.55 / 0.53, np.zeros(1), **OPTICS | {"source_na": 0.55})[0]
    np.testing.assert_allclose(transfer.real, 2 / np.pi * (np.arccos(v) - v * np.sqrt(1 - v**2)), atol=0.01)


def test_defocused_fluorescence_transfer_function_is_real():
    transfer = radial_transfer(np.linspace(0, 2, 40), np.linspace(0, 12, 13), **OPTICS | {"source_na": 0.55})
    np.testing.assert_allclose(transfer.imag, 0, atol=0.01)


def test_coherent_light_gives_the_sine_of_the_wave_aberration():
    u, d = np.linspace(0, 1.0, 40), 3.0
    transfer = radial_transfer(u, np.array([d]), **OPTICS | {"source_na": 0.0})[0]
    k = 1.337 / 0.53
    np.testing.assert_allclose(-2 * transfer.imag, 2 * np.sin(2 * np.pi * d * (k - np.sqrt(k**2 - u**2))), atol=1e-12)


def test_small_defocus_obeys_the_transport_of_intensity_equation():
    # k dI/dz = -∇²φ: the phase contrast is d/k (2πu)² with k = 2πn/λ, for slow variations and little defocus.
    u, d = np.linspace(0.01, 0.1, 10), 0.05
    for condenser in (0.0, 0.3):
        transfer = radial_transfer(u, np.array([d]), **OPTICS | {"source_na": condenser})[0]
        expected = d * (2 * np.pi * u) ** 2 / (2 * np.pi * 1.337 / 0.53)
        np.testing.assert_allclose(-2 * transfer.imag, expected, rtol=0.06)


def test_source_points_sample_the_disc_evenly_and_symmetrically():
    points = source_points(0.4, 0.5)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((points**2).sum(1).mean(), 0.8**2 / 2, rtol=1e-6)  # of a uniform disc
    as_set = {tuple(p) for p in np.round(points, 9) + 0.0}
    assert as_set == {tuple(p) for p in np.round(-points, 9) + 0.0}


def test_the_plane_is_the_radial_function_on_the_fourier_grid():
    plane = plane_transfer((24, 30), (0.3, 0.25), np.array([0.0, 2.0]), **OPTICS)
    fy, fx = np.fft.fftfreq(24, 0.3), np.fft.rfftfreq(30, 0.25)
    for row, column in [(0, 0), (3, 4), (-5, 2), (12, 15)]:
        exact = radial_transfer(np.hypot(fy[row], fx[column])[None], np.array([0.0, 2.0]), **OPTICS)[:, 0]
        np.testing.assert_allclose(plane[:, row, column], exact, atol=0.01)


@pytest.mark.parametrize("change", [{"objective_na": 1.4}, {"source_na": 0.6}, {"objective_na": 0.0}])
def test_impossible_optics_are_refused(change):
    with pytest.raises(ValueError, match="NA"):
        radial_transfer(np.zeros(1), np.zeros(1), **OPTICS | change)
