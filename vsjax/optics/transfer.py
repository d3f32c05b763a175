"""Transfer functions of an axially symmetric microscope, through focus.

One integral serves both contrasts. With pupil P (the objective's disc, radius NA/λ) and source S (the condenser's disc
in the same plane, radius NA_c/λ), a thin layer at a distance d before the focal plane enters the image through

    A(u, d) = ∫ S(s) P(s) P(s+u) exp{2πi d [k_z(s+u) - k_z(s)]} ds / ∫ S P ds,   k_z(s) = sqrt((n/λ)² - |s|²).

- Weak object (first Born approximation; N. Streibl, "Three-dimensional imaging by a microscope", J. Opt. Soc. Am. A 2,
  121 (1985), whose 3-D transfer functions waveorder uses too): intensity/background = 1 + H_φ φ + H_μ μ with
  H_φ = -2 Im A and H_μ = -2 Re A, for a layer that multiplies the field by exp(iφ - μ). Left out: the obliquity factor
  1/cos θ of the scattered wave (at most 1.10 at NA 0.55 in water).
- Self-luminous object: the optical transfer function is A with S = P (Goodman, Introduction to Fourier Optics, 6.4),
  again for scalar light, without apodisation.
"""

import numpy as np


def source_points(numerical_aperture: float, wavelength_um: float, rings: int = 40, spokes: int = 64) -> np.ndarray:
    """Points (N, 2) of equal weight that sample a disc of radius NA/λ in 1/µm: rings of equal area.

    The set is symmetric under s -> -s, so that what cancels in theory (phase contrast in focus) cancels in numbers.
    NA 0 gives the single point 0, coherent illumination along the axis.
    """
    if numerical_aperture == 0:
        return np.zeros((1, 2))
    radius = numerical_aperture / wavelength_um * np.sqrt((np.arange(rings) + 0.5) / rings)
    turn = 2 * np.pi * (np.arange(spokes)[None] + 0.5 * (np.arange(rings)[:, None] % 2)) / spokes
    return np.stack([radius[:, None] * np.cos(turn), radius[:, None] * np.sin(turn)], -1).reshape(-1, 2)


def radial_transfer(
    frequency_per_um: np.ndarray,
    defocus_um: np.ndarray,
    *,
    objective_na: float,
    source_na: float,
    wavelength_um: float,
    medium_index: float,
) -> np.ndarray:
    """A(u, d) of the module's text at radial frequencies (F,) and distances (D,): complex128 (D, F).

    Raises ValueError when a numerical aperture is not below the medium's index, or the source's exceeds the
    objective's (dark-field, where nothing unscattered reaches the image and this linear theory does not hold).
    """
    if not 0 < objective_na < medium_index:
        raise ValueError(f"objective NA must lie between 0 and the medium's index {medium_index}, not {objective_na}")
    if not 0 <= source_na <= objective_na:
        raise ValueError(f"condenser NA must lie between 0 and the objective's {objective_na}, not {source_na}")
    points = source_points(source_na, wavelength_um)
    total = (medium_index / wavelength_um) ** 2
    axial = np.sqrt(total - np.sum(points**2, axis=1))
    transfer = np.empty((len(defocus_um), len(frequency_per_um)), np.complex128)
    for i, u in enumerate(frequency_per_um):
        squared = (points[:, 0] + u) ** 2 + points[:, 1] ** 2
        passes = squared <= (objective_na / wavelength_um) ** 2 * (1 + 1e-9)
        path = np.sqrt(total - squared[passes]) - axial[passes]
        transfer[:, i] = np.exp(2j * np.pi * np.outer(defocus_um, path)).sum(1) / len(points)
    return transfer


def plane_transfer(
    shape_yx: tuple[int, int], pixel_size_yx_um: tuple[float, float], defocus_um: np.ndarray, **optics: float
) -> np.ndarray:
    """A(u, d) on the half grid of `rfft2`: complex64 (D, Y, X//2 + 1). `optics` as for `radial_transfer`.

    The function depends on |u| only; it is computed on 256 radii up to its cut-off and interpolated linearly.
    """
    fy = np.fft.fftfreq(shape_yx[0], pixel_size_yx_um[0])
    fx = np.fft.rfftfreq(shape_yx[1], pixel_size_yx_um[1])
    radius = np.hypot(fy[:, None], fx[None])
    cut_off = (optics["objective_na"] + optics["source_na"]) / optics["wavelength_um"]
    radii = np.linspace(0, cut_off, 256)
    table = radial_transfer(radii, np.asarray(defocus_um, float), **optics)
    plane = np.empty((len(table), *radius.shape), np.complex64)
    for row, out in zip(table, plane, strict=True):
        out.real = np.interp(radius, radii, row.real, right=0.0)
        out.imag = np.interp(radius, radii, row.imag, right=0.0)
    return plane
