"""What lies on the stage: refractive index, absorption, fluorophores and exact instance labels on a voxel grid.

This is all that the optics (`vsjax.optics.imaging`) ever see of a specimen; nothing here knows about lenses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vsjax.optics.cells import Cell, CellModel

STAINS = ("nuclei", "membrane", "organelles")
_REACH = 1.4  # a cell competes for voxels up to this many of its radii; beyond, it cannot touch a neighbour's membrane
_EDGE_UM = 0.5  # the refractive index rises from medium to cytoplasm over this depth


@dataclass(frozen=True)
class Specimen:
    """A transparent, fluorescent object. Arrays are (Z, Y, X) on one grid; z grows along the light's direction."""

    refractive_index: np.ndarray
    """float32, absolute (the medium has `medium_index`)."""
    absorption_per_um: np.ndarray
    """float32, amplitude absorption coefficient: the field falls as exp(-absorption × path)."""
    fluorophores: dict[str, np.ndarray]
    """Stain name -> float32 density, arbitrary units; a typical stained structure has 1."""
    labels: dict[str, np.ndarray]
    """Object name -> int32 instances, 0 is background; "nuclei" and "cells" share numbers: nucleus i is in cell i."""
    pixel_size_um: tuple[float, float, float]
    medium_index: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.refractive_index.shape


@dataclass
class _Canvas:
    """The arrays while cells are drawn into them."""

    shape: tuple[int, int, int]
    pixel_size_um: tuple[float, float, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fill = {"nearest": np.inf, "second": np.inf, "index": 0.0, "absorption": 0.0, "nuclei": 0.0, "membrane": 0.0}
        fill["organelles"] = 0.0
        self.arrays = {name: np.full(self.shape, value, np.float32) for name, value in fill.items()}
        self.owner = np.zeros(self.shape, np.int32)
        self.nucleus_of = np.zeros(self.shape, np.int32)

    def box(self, centre_um: np.ndarray, reach_um: np.ndarray) -> tuple[slice, slice, slice] | None:
        """Voxels within `reach_um` of a point (the FOV's centre is the origin), or None when there are none."""
        slices = []
        for centre, reach, size, pixel in zip(centre_um, reach_um, self.shape, self.pixel_size_um, strict=True):
            middle = centre / pixel + 0.5 * (size - 1)
            low, high = int(np.ceil(middle - reach / pixel)), int(np.floor(middle + reach / pixel)) + 1
            if high <= 0 or low >= size or high <= low:
                return None
            slices.append(slice(max(low, 0), min(high, size)))
        return tuple(slices)

    def offsets(self, box: tuple[slice, ...], centre_um: np.ndarray) -> list[np.ndarray]:
        """Open grids (z, y, x) of a box's voxels in µm relative to a point."""
        axes = [
            ((np.arange(s.start, s.stop) - 0.5 * (size - 1)) * pixel - centre).astype(np.float32)
            for s, size, pixel, centre in zip(box, self.shape, self.pixel_size_um, centre_um, strict=True)
        ]
        return np.meshgrid(*axes, indexing="ij", sparse=True)


def _claim(canvas: _Canvas, cell: Cell, number: int, box: tuple[slice, ...]) -> None:
    """Give the cell every voxel to which it is nearer, in its own radii, than any cell before it."""
    rho = cell.body.rho(*canvas.offsets(box, cell.centre_um))
    nearest, second = canvas.arrays["nearest"][box], canvas.arrays["second"][box]
    wins = rho < nearest
    second[...] = np.where(wins, nearest, np.minimum(second, rho))
    nearest[wins] = rho[wins]
    canvas.owner[box][wins & (rho < 1)] = number


def _add_ball(target: np.ndarray, offsets: list[np.ndarray], radius_um: float, value: float) -> None:
    """Add a ball with a soft edge (a Gaussian of the exponent 4) of the given radius and central value, in place."""
    z, y, x = offsets
    target += np.float32(value) * np.exp(-(((z * z + y * y + x * x) / np.float32(radius_um**2)) ** 2))


def _draw_balls(canvas: _Canvas, array: np.ndarray, cell: Cell, balls: np.ndarray) -> None:
    """Add balls (z, y, x, radius, value), given relative to the cell's centre, to `array`."""
    for *offset, radius, value in balls:
        centre = cell.centre_um + offset
        box = canvas.box(centre, np.full(3, 1.6 * radius))
        if box is not None:
            _add_ball(array[box], canvas.offsets(box, centre), radius, value)


def _stained(balls: np.ndarray) -> np.ndarray:
    """Those balls that refract more than the cytoplasm, as mitochondria and not as vacuoles do, with a stain of 1."""
    balls = balls[balls[:, 4] > 0].copy()
    balls[:, 4] = 1.0
    return balls


def _depth_um(nearest: np.ndarray, second: np.ndarray, offsets: list[np.ndarray]) -> np.ndarray:
    """How far below its cell's surface a voxel lies, along the radius (µm); negative outside.

    The surface is where the cell's own body ends or where a neighbour is equally near.
    """
    z, y, x = offsets
    radius = np.sqrt(z * z + y * y + x * x) / np.maximum(nearest, 1e-3)
    return np.minimum(1 - nearest, 0.5 * (second - nearest)) * radius


def _fill(canvas: _Canvas, model: CellModel, cell: Cell, number: int, box: tuple[slice, ...]) -> None:
    """Draw nucleus, stains and refractive index of a cell into the voxels that it owns."""
    arrays = canvas.arrays
    offsets = canvas.offsets(box, cell.centre_um)
    mine = canvas.owner[box] == number
    nearest, second = arrays["nearest"][box], arrays["second"][box]
    depth = _depth_um(nearest, second, offsets)
    nucleus = mine & (depth > model.nucleus_margin_um) & (cell.nucleus.rho(*offsets) < 1)
    canvas.nucleus_of[box][nucleus] = number

    z, y, x = (np.broadcast_to(axis, mine.shape)[nucleus] for axis in offsets)
    texture = np.zeros(z.shape, np.float32)
    for kz, ky, kx, phase in cell.chromatin.astype(np.float32):
        texture += np.cos(kz * z + ky * y + kx * x + phase)
    texture *= np.float32(np.sqrt(2 / len(cell.chromatin)))
    nucleolus = np.zeros(z.shape, np.float32)
    for oz, oy, ox, radius in cell.nucleoli.astype(np.float32):
        _add_ball(nucleolus, [z - oz, y - oy, x - ox], radius, 1.0)
    nucleolus = np.minimum(nucleolus, 1)

    stain = np.maximum(1 + model.chromatin_contrast * texture, 0.1) * (1 - 0.7 * nucleolus)
    arrays["nuclei"][box][nucleus] = cell.nuclear_stain * stain
    shell = np.exp(-0.5 * (depth[mine] / np.float32(model.membrane_um) - np.float32(2)) ** 2)
    arrays["membrane"][box][mine] = cell.membrane_stain * shell

    edge = np.clip(depth / np.float32(_EDGE_UM), 0, 1)
    index = arrays["index"][box]  # holds the organelles already
    index[mine] = (cell.index_factor * edge * (model.cytoplasm_index + index))[mine]
    index[nucleus] = cell.index_factor * (model.nucleus_index + 0.001 * texture + model.nucleolus_index * nucleolus)


def _draw_debris(canvas: _Canvas, model: CellModel, rng: np.random.Generator) -> None:
    """Scatter small dark and refracting grains over the FOV, outside the cells."""
    extent = np.multiply(canvas.shape, canvas.pixel_size_um)
    count = rng.poisson(model.debris_per_100um2 * extent[1] * extent[2] / 100)
    for _ in range(count):
        centre = np.array([-0.5, 0, 0]) * model.layer_um + rng.uniform([0, -0.5, -0.5], [0.25, 0.5, 0.5]) * extent
        radius, index, absorption = rng.uniform(0.3, 0.8), rng.normal(0.02, 0.01), rng.uniform(0, 0.15)
        box = canvas.box(centre, np.full(3, 1.6 * radius))
        if box is not None and not canvas.owner[box].any():
            offsets = canvas.offsets(box, centre)
            _add_ball(canvas.arrays["index"][box], offsets, radius, index)
            _add_ball(canvas.arrays["absorption"][box], offsets, radius, absorption)


def draw_specimen(
    cells: Sequence[Cell],
    shape: tuple[int, int, int],
    pixel_size_um: tuple[float, float, float],
    model: CellModel,
    *,
    medium_index: float = 1.337,
    debris_seed: Sequence[int] | None = None,
) -> Specimen:
    """Draw cells on a grid whose centre is the origin of their coordinates.

    Where bodies would overlap, a voxel goes to the cell to which it is nearer in units of the cell's radius, so labels
    never overlap and touching cells share a flat membrane. Labels number the cells from 1 in the order given; a cell
    that lies outside the grid keeps its number, so numbers are stable over time. Stain is exactly zero outside its
    structure. `debris_seed` seeds the grains beside the cells; None leaves them out.
    """
    canvas = _Canvas(tuple(shape), tuple(pixel_size_um))
    boxes = [canvas.box(cell.centre_um, _REACH * cell.body.half_axes_um.max() * np.ones(3)) for cell in cells]
    present = [(number, cell, box) for number, (cell, box) in enumerate(zip(cells, boxes, strict=True), 1) if box]
    for number, cell, box in present:
        _claim(canvas, cell, number, box)
        _draw_balls(canvas, canvas.arrays["index"], cell, cell.blobs)
        _draw_balls(canvas, canvas.arrays["organelles"], cell, _stained(cell.blobs))
    canvas.arrays["index"] *= canvas.owner > 0  # organelles end where their cell ends
    for number, cell, box in present:
        _fill(canvas, model, cell, number, box)
    canvas.arrays["organelles"] *= (canvas.owner > 0) & (canvas.nucleus_of == 0)
    if debris_seed is not None:
        _draw_debris(canvas, model, np.random.default_rng(list(debris_seed)))
    return Specimen(
        refractive_index=canvas.arrays["index"] + np.float32(medium_index),
        absorption_per_um=canvas.arrays["absorption"],
        fluorophores={stain: canvas.arrays[stain] for stain in STAINS},
        labels={"nuclei": canvas.nucleus_of, "cells": canvas.owner},
        pixel_size_um=tuple(pixel_size_um),
        medium_index=medium_index,
    )
