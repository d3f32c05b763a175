"""Simple image formation: what a bright-field and wide-field fluorescence microscope records of a `Specimen`.

Light passes the specimen once (first Born approximation): every layer of the specimen adds its own defocused image to
every focal plane. That is linear in the specimen, so strong objects (a whole cell's phase is a few radians) get less
distortion than in reality; multiple scattering, aberrations, vectorial light and bleaching are left out.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from scipy import fft

from vsjax.optics.specimen import Specimen
from vsjax.optics.transfer import plane_transfer
from vsjax.schema import Document, Name

Wavelength = Annotated[float, Field(ge=0.1, le=10)]  # µm


class Camera(Document):
    """A linear camera: counts = offset + gain × Poisson(photoelectrons) + read noise, in whole counts."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    gain: float = Field(1.0, gt=0, le=1e4)
    """Counts per photoelectron."""
    offset: float = Field(100.0, ge=0, le=65535)
    """Counts without light."""
    read_noise: float = Field(2.0, ge=0, le=65535)
    """Standard deviation, counts."""
    largest_count: int = Field(65535, ge=1, le=65535)


class Microscope(Document):
    """A transmitted-light and epifluorescence microscope; the defaults are those of a 20x, NA 0.55 set-up."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    objective_na: float = Field(0.55, gt=0, le=3)
    condenser_na: float = Field(0.4, ge=0, le=3)
    medium_index: float = Field(1.337, ge=1, le=3)
    illumination_um: float = Field(0.53, ge=0.1, le=10)
    """Wavelength of the transmitted light in vacuum."""
    emission_um: tuple[tuple[Name, Wavelength], ...] = (
        ("nuclei", 0.46),
        ("membrane", 0.60),
        ("organelles", 0.52),
    )
    """Emission wavelength in vacuum per stain."""
    brightfield_electrons: float = Field(8000.0, ge=0, le=1e9)
    """Photoelectrons per pixel and exposure where nothing is in the way."""
    fluorescence_electrons: float = Field(120.0, ge=0, le=1e9)
    """Photoelectrons per pixel, exposure and µm of stain of density 1."""
    background_electrons: float = Field(30.0, ge=0, le=1e9)
    """Photoelectrons of stray light per pixel and fluorescence exposure."""
    vignetting: float = Field(0.06, ge=0, le=1)
    """Relative loss of light in the FOV's corners."""
    camera: Camera = Camera()

    @model_validator(mode="after")
    def _transmits(self) -> Self:
        if self.objective_na >= self.medium_index:
            raise ValueError(f"--objective-na {self.objective_na} must be below the medium's index {self.medium_index}")
        if self.condenser_na > self.objective_na:
            raise ValueError(f"--condenser-na {self.condenser_na} must be at most --objective-na {self.objective_na}")
        return self


def phase_per_layer(specimen: Specimen, wavelength_um: float) -> np.ndarray:
    """Phase (rad) that each layer of the specimen adds to the light: 2π/λ (n - n_medium) Δz. (Z, Y, X) float32."""
    factor = 2 * np.pi / wavelength_um * specimen.pixel_size_um[0]
    return np.float32(factor) * (specimen.refractive_index - np.float32(specimen.medium_index))


@lru_cache(maxsize=8)
def _focal_series(
    shape: tuple[int, int, int],
    pixel_size_um: tuple[float, float, float],
    objective_na: float,
    source_na: float,
    wavelength_um: float,
    medium_index: float,
) -> np.ndarray:
    """A(u, d) for every distance from 0 to the depth of the specimen in steps of its layers; kept between calls."""
    return plane_transfer(
        shape[1:],
        pixel_size_um[1:],
        np.arange(shape[0]) * pixel_size_um[0],
        objective_na=objective_na,
        source_na=source_na,
        wavelength_um=wavelength_um,
        medium_index=medium_index,
    )


def _sum_layers(layers: np.ndarray, kernels: np.ndarray, focal_layers: Sequence[int], parity: int) -> np.ndarray:
    """For every focal plane, the sum over layers of layer × kernel(focal - layer), all in Fourier space.

    kernels: (Z, Y, X') real, for distances 0, 1, ... layers; those for negative distances are `parity` times them.
    """
    planes = np.zeros((len(focal_layers), *layers.shape[1:]), np.complex64)
    for plane, focus in zip(planes, focal_layers, strict=True):
        for z, layer in enumerate(layers):
            kernel = kernels[abs(focus - z)]
            if focus < z and parity < 0:
                plane -= layer * kernel
            else:
                plane += layer * kernel
    return planes


def brightfield(specimen: Specimen, microscope: Microscope, focal_layers: Sequence[int]) -> np.ndarray:
    """Bright-field intensity relative to the empty FOV, focused on the given layers: (F, Y, X) float32.

    Weak-object transfer functions of phase and absorption (see `vsjax.optics.transfer`), summed over layers;
    not negative. The FOV is taken as periodic in Y and X: give the specimen a margin and crop it off.
    """
    transfer = _focal_series(
        specimen.shape,
        specimen.pixel_size_um,
        microscope.objective_na,
        microscope.condenser_na,
        microscope.illumination_um,
        microscope.medium_index,
    )
    phase = fft.rfft2(phase_per_layer(specimen, microscope.illumination_um))
    planes = _sum_layers(phase, -2 * transfer.imag, focal_layers, parity=-1)
    absorption = specimen.absorption_per_um * np.float32(specimen.pixel_size_um[0])
    planes += _sum_layers(fft.rfft2(absorption), -2 * transfer.real, focal_layers, parity=1)
    intensity = 1 + fft.irfft2(planes, s=specimen.shape[1:])
    return np.maximum(intensity, 0, out=intensity)


def fluorescence(specimen: Specimen, microscope: Microscope, stain: str, focal_layers: Sequence[int]) -> np.ndarray:
    """Wide-field fluorescence of one stain, focused on the given layers: (F, Y, X) float32, in density × µm.

    Every layer's light reaches every plane (a wide-field microscope has no optical sectioning), so each plane's sum is
    the specimen's. Periodic in Y and X as `brightfield`.
    """
    transfer = _focal_series(
        specimen.shape,
        specimen.pixel_size_um,
        microscope.objective_na,
        microscope.objective_na,
        dict(microscope.emission_um)[stain],
        microscope.medium_index,
    )
    density = fft.rfft2(specimen.fluorophores[stain] * np.float32(specimen.pixel_size_um[0]))
    planes = _sum_layers(density, transfer.real, focal_layers, parity=1)
    return np.maximum(fft.irfft2(planes, s=specimen.shape[1:]), 0)


def phase_density(specimen: Specimen, microscope: Microscope, focal_layers: Sequence[int]) -> np.ndarray:
    """The phase density (rad/µm) at the given layers as a perfect reconstruction would give it: (F, Y, X) float32.

    It is limited to the lateral frequencies that the microscope transmits (a Gaussian with the resolution
    λ/(NA + NA_c) as its full width at half maximum) and averaged over the layers around each focal plane in
    proportion to a Gaussian with the axial resolution n λ/NA² as its full width.
    """
    to_sigma = 1 / (2 * np.sqrt(2 * np.log(2)))
    wavelength, na = microscope.illumination_um, microscope.objective_na
    lateral = wavelength / (na + microscope.condenser_na) * to_sigma
    axial = microscope.medium_index * wavelength / na**2 * to_sigma
    dz, dy, dx = specimen.pixel_size_um
    density = phase_per_layer(specimen, wavelength) / np.float32(dz)
    distance = (np.asarray(focal_layers)[:, None] - np.arange(len(density))[None]) * dz
    weights = np.exp(-0.5 * (distance / axial) ** 2)
    weights /= weights.sum(1, keepdims=True)
    planes = np.tensordot(weights.astype(np.float32), density, 1)
    fy = np.fft.fftfreq(specimen.shape[1], dy)[:, None]
    fx = np.fft.rfftfreq(specimen.shape[2], dx)[None]
    kernel = np.exp(-2 * (np.pi * lateral) ** 2 * (fy**2 + fx**2)).astype(np.float32)
    return fft.irfft2(fft.rfft2(planes) * kernel, s=specimen.shape[1:])


def vignette(shape_yx: tuple[int, int], loss: float) -> np.ndarray:
    """Illumination that falls with the squared distance from the FOV's centre by `loss` in the corners: (Y, X)."""
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) if size > 1 else np.zeros(1, np.float32) for size in shape_yx)
    return 1 - np.float32(loss) * (y[:, None] ** 2 + x[None] ** 2) / 2


def record(electrons: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Camera counts for expected photoelectrons: Poisson noise, gain, offset, read noise, rounding; uint16."""
    counts = camera.gain * rng.poisson(electrons).astype(np.float32) + np.float32(camera.offset)
    counts += np.float32(camera.read_noise) * rng.standard_normal(electrons.shape, np.float32)
    return np.clip(np.rint(counts), 0, camera.largest_count).astype(np.uint16)


def expose_brightfield(intensity: np.ndarray, microscope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Camera counts of a relative intensity (F, Y, X): uint16."""
    light = microscope.brightfield_electrons * vignette(intensity.shape[1:], microscope.vignetting)
    return record(intensity * light, microscope.camera, rng)


def expose_fluorescence(light: np.ndarray, microscope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Camera counts of fluorescence (F, Y, X) in density × µm: uint16."""
    electrons = microscope.fluorescence_electrons * vignette(light.shape[1:], microscope.vignetting) * light
    return record(electrons + microscope.background_electrons, microscope.camera, rng)
