"""Random cells as geometry: bodies, nuclei, organelles and stain, described in µm and not yet drawn on any grid.

All coordinates are (z, y, x) in µm; z grows along the light's direction. What belongs to a cell is given relative to
the cell's centre, so a cell moves by moving its centre. `vsjax.optics.specimen` draws the cells.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field

from vsjax.errors import UserError
from vsjax.schema import Document, Share

_DIRECTION_WAVES = 6  # plane waves over direction that perturb a body's radius; enough to look irregular
_MAX_PLACEMENT_TRIES = 400  # random positions tried per cell before the FOV counts as full


Radius = Annotated[float, Field(ge=1, le=100)]  # µm


class CellModel(Document):
    """The population that cells are drawn from: lengths in µm, refractive indices as differences to the medium.

    Indices are of the order that tomographic phase microscopy reports for live mammalian cells (nucleoplasm below
    cytoplasm, nucleoli and lipid above both: Schürmann et al., J. Biophotonics 2016; Kim & Guck, Biophys. J. 2020).
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    radius_um: tuple[Radius, Radius] = (6.5, 8.5)
    """Lateral radius of a cell, uniform between the two."""
    flatness: float = Field(0.62, ge=0.05, le=2)
    """Height over width."""
    elongation: float = Field(0.15, ge=0, le=0.9)
    """Largest relative difference of the two lateral half axes to their mean."""
    roughness: float = Field(0.05, ge=0, le=0.3)
    """Standard deviation of the relative radius over direction."""
    crowding: float = Field(0.92, ge=0.1, le=10)
    """Smallest distance of two cells' centres over the sum of their radii; below 1, neighbours flatten each other."""
    coverage: float = Field(0.55, ge=0.001, le=1)
    """Part of the FOV that cells cover when no number is asked for."""
    nucleus_size: tuple[Share, Share] = (0.50, 0.62)
    """The nucleus' half axes over the cell's."""
    nucleus_margin_um: float = Field(0.7, ge=0, le=100)
    """Cytoplasm that always remains between nucleus and membrane."""
    membrane_um: float = Field(0.22, ge=0.01, le=100)
    """Standard deviation of the stained shell's Gaussian profile; it peaks two of them below the cell's surface."""
    cytoplasm_index: float = Field(0.024, ge=-1, le=1)
    nucleus_index: float = Field(0.014, ge=-1, le=1)
    nucleolus_index: float = Field(0.020, ge=-1, le=1)
    """On top of the nucleus'."""
    chromatin_contrast: float = Field(0.25, ge=0, le=10)
    """Relative standard deviation of the nuclear stain over the nucleus; of its index, a tenth of a percent."""
    organelles: int = Field(110, ge=0, le=10_000)
    """Mean number of small granules per cell (mitochondria, vesicles: index up, some down)."""
    vacuoles: float = Field(1.2, ge=0, le=1000)
    """Mean number of large, watery inclusions per cell: decoys, as smooth and round as a nucleus."""
    index_variation: float = Field(0.08, ge=0, le=1)
    """Relative standard deviation of a cell's refractive index between cells."""
    stain_variation: float = Field(0.12, ge=0, le=3)
    """Standard deviation of the logarithm of a cell's stain: nothing label-free can tell it."""
    debris_per_100um2: float = Field(0.15, ge=0, le=100)
    """Small scatterers and absorbers beside the cells."""
    step_um: float = Field(0.6, ge=0, le=1000)
    """Standard deviation of a cell's lateral step from one time point to the next."""

    @property
    def layer_um(self) -> float:
        """Height of the layer that holds every cell, µm."""
        return 2.0 * self.radius_um[1] * self.flatness * (1 + 3 * self.roughness) + 1.0


@dataclass(frozen=True)
class Body:
    """A star-convex body: an ellipsoid, turned about z, whose radius is perturbed by smooth noise over direction."""

    centre_um: np.ndarray
    """(3,), relative to the cell's centre."""
    half_axes_um: np.ndarray
    """(3,)."""
    angle: float = 0.0
    waves: np.ndarray | None = None
    """(K, 3) wave vectors over the unit direction, or None for the exact ellipsoid."""
    phases: np.ndarray | None = None
    """(K,)."""
    roughness: float = 0.0

    def rho(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Distance from the body's centre in units of the body's radius in that direction: below 1 is inside.

        z, y, x: µm relative to the cell's centre, broadcastable against each other; float32 back.
        """
        z, y, x = z - self.centre_um[0], y - self.centre_um[1], x - self.centre_um[2]
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        z = z / np.float32(self.half_axes_um[0])
        y, x = (c * y - s * x) / np.float32(self.half_axes_um[1]), (s * y + c * x) / np.float32(self.half_axes_um[2])
        rho = np.sqrt(z * z + y * y + x * x).astype(np.float32)
        if self.waves is None:
            return rho
        inverse = 1.0 / np.maximum(rho, 1e-3)
        amplitude = np.float32(self.roughness * np.sqrt(2.0 / len(self.waves)))
        bump = np.zeros_like(rho)
        for (kz, ky, kx), phase in zip(self.waves.astype(np.float32), self.phases.astype(np.float32), strict=True):
            bump += np.cos((kz * z + ky * y + kx * x) * inverse + phase)
        return rho / (1 + amplitude * bump)


@dataclass(frozen=True)
class Cell:
    """One cell: its body, its nucleus and what they contain."""

    centre_um: np.ndarray
    """(3,), in the FOV: its centre is (0, 0, 0)."""
    body: Body
    nucleus: Body
    blobs: np.ndarray
    """(N, 5) organelles: z, y, x relative to the cell, radius (µm), index difference to the cytoplasm."""
    nucleoli: np.ndarray
    """(N, 4): z, y, x relative to the cell, radius (µm)."""
    chromatin: np.ndarray
    """(K, 4): wave vectors (rad/µm) and phase of the nuclear texture."""
    index_factor: float
    nuclear_stain: float
    membrane_stain: float

    @property
    def radius_um(self) -> float:
        """Mean lateral radius."""
        return float(np.mean(self.body.half_axes_um[1:]))


def _body(rng: np.random.Generator, centre: np.ndarray, half_axes: np.ndarray, angle: float, roughness: float) -> Body:
    waves = rng.normal(0.0, 2.2, (_DIRECTION_WAVES, 3))
    phases = rng.uniform(0, 2 * np.pi, _DIRECTION_WAVES)
    return Body(centre, half_axes, angle, waves, phases, roughness)


def _in_ball(rng: np.random.Generator, count: int, outer: float) -> np.ndarray:
    """`count` points uniform in the ball of radius `outer`: (count, 3)."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * (outer * rng.uniform(0, 1, (count, 1)) ** (1 / 3))


def _organelles(rng: np.random.Generator, model: CellModel, body: Body) -> np.ndarray:
    granules = rng.poisson(model.organelles)
    vacuoles = rng.poisson(model.vacuoles)
    where = _in_ball(rng, granules + vacuoles, 0.93) * body.half_axes_um
    c, s = np.cos(body.angle), np.sin(body.angle)
    where = np.stack([where[:, 0], c * where[:, 1] + s * where[:, 2], -s * where[:, 1] + c * where[:, 2]], 1)
    radius = np.concatenate([rng.uniform(0.25, 0.6, granules), rng.uniform(1.0, 2.2, vacuoles)])
    index = np.concatenate([rng.normal(0.016, 0.012, granules), rng.uniform(-0.014, -0.006, vacuoles)])
    return np.column_stack([where, radius, index])


def random_cell(rng: np.random.Generator, model: CellModel, centre_yx_um: np.ndarray, radius_um: float) -> Cell:
    """One cell of the population with the given lateral radius, standing on the bottom of the cell layer."""
    lengthening = 1 + rng.uniform(-model.elongation, model.elongation)
    half_axes = radius_um * np.array([model.flatness * rng.uniform(0.9, 1.0), lengthening, 2 - lengthening])
    angle = rng.uniform(0, np.pi)
    body = _body(rng, np.zeros(3), half_axes, angle, model.roughness)
    size = rng.uniform(*model.nucleus_size)
    nucleus_centre = _in_ball(rng, 1, 0.22)[0] * half_axes
    nucleus_angle = angle + rng.normal(0, 0.3)
    nucleus = _body(rng, nucleus_centre, half_axes * size * np.array([1.1, 1, 1]), nucleus_angle, model.roughness)
    nucleoli = _in_ball(rng, rng.integers(1, 4), 0.6) * nucleus.half_axes_um + nucleus_centre
    chromatin = np.column_stack([rng.normal(0, 2.0, (24, 3)), rng.uniform(0, 2 * np.pi, 24)])
    bottom = -0.5 * model.layer_um + 0.5
    z = bottom + half_axes[0] * (1 + 2 * model.roughness) + rng.uniform(0.0, 0.6)
    return Cell(
        centre_um=np.array([z, *centre_yx_um]),
        body=body,
        nucleus=nucleus,
        blobs=_organelles(rng, model, body),
        nucleoli=np.column_stack([nucleoli, rng.uniform(0.6, 1.3, len(nucleoli))]),
        chromatin=chromatin,
        index_factor=float(max(0.5, rng.normal(1, model.index_variation))),
        nuclear_stain=float(np.exp(rng.normal(0, model.stain_variation))),
        membrane_stain=float(np.exp(rng.normal(0, model.stain_variation))),
    )


def place_cells(
    rng: np.random.Generator, model: CellModel, extent_yx_um: tuple[float, float], cells_per_um2: float | None = None
) -> list[Cell]:
    """Cells at random places of a FOV of the given lateral extent, none nearer to another than `model.crowding`.

    cells_per_um2: density; None fills to `model.coverage`. The number of cells is density × area, rounded, at least 1.
    Raises UserError when so many do not fit.
    """
    extent = np.asarray(extent_yx_um, float)
    mean_area = np.pi * np.mean(np.square(model.radius_um))
    density = model.coverage / mean_area if cells_per_um2 is None else cells_per_um2
    count = max(1, round(density * float(extent.prod())))
    centres, radii = np.empty((0, 2)), np.empty(0)
    for radius in rng.uniform(*model.radius_um, count):
        for _ in range(_MAX_PLACEMENT_TRIES):
            centre = rng.uniform(-0.5, 0.5, 2) * extent
            if np.all(np.linalg.norm(centres - centre, axis=1) >= model.crowding * (radii + radius)):
                centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
                break
        else:
            if cells_per_um2 is None:
                break  # the FOV is full; as many as there are will do
            fits = len(radii) / (count * 1.0)
            raise UserError(
                f"--cells: the density asked for does not fit, only about {fits:.0%} of it; "
                f"ask for fewer cells or a larger --shape"
            )
    return [random_cell(rng, model, centre, radius) for centre, radius in zip(centres, radii, strict=True)]


def move_cells(rng: np.random.Generator, model: CellModel, cells: list[Cell]) -> list[Cell]:
    """The same cells one time point later: each makes a random lateral step, then those too near are pushed apart."""
    centres = np.array([cell.centre_um[1:] for cell in cells]) + rng.normal(0, model.step_um, (len(cells), 2))
    radii = np.array([cell.radius_um for cell in cells])
    least = model.crowding * (radii[:, None] + radii[None])
    for _ in range(20):
        apart = centres[:, None] - centres[None]
        distance = np.linalg.norm(apart, axis=-1)
        np.fill_diagonal(distance, np.inf)
        overlap = np.maximum(least - distance, 0)
        if not overlap.any():
            break
        centres = centres + 0.5 * np.sum(apart * (overlap / np.maximum(distance, 1e-3))[..., None], axis=1)
    return [
        replace(cell, centre_um=np.array([cell.centre_um[0], *centre]))
        for cell, centre in zip(cells, centres, strict=True)
    ]
