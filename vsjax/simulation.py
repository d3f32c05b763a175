"""Plates of simulated cells, label-free and stained, with exact instance labels.

A position is a function of (seed, position index) alone: it is the same whatever the number of positions, the channels
written or the number of threads, and its first time points are the same however many follow.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field
from tqdm import tqdm

from vsjax.errors import UserError
from vsjax.memory import check_memory
from vsjax.optics import imaging
from vsjax.optics.cells import Cell, CellModel, move_cells, place_cells
from vsjax.optics.imaging import Microscope
from vsjax.optics.specimen import Specimen, draw_specimen
from vsjax.plates.simulation_record import SIMULATION_ATTRIBUTE, SimulatedImage, SimulationRecord
from vsjax.plates.writer import PlateWriter, create_plate
from vsjax.schema import Document, each_once

CHANNELS = ("BF", "Phase", "nuclei", "membrane", "organelles")
USUAL_CHANNELS = CHANNELS[:4]
LABELS = ("nuclei", "cells")

_MARGIN_UM = 10.0  # simulated around the field of view and cropped off: cells cut by the border, no wrap-around of blur
_LAYER_UM = 0.4  # the specimen's layers are at most this thick
_BYTES_PER_VOXEL = 64  # of the specimen: ten arrays of it while it is drawn, or its layers' spectra and kernels
_FOVS_PER_WELL, _COLUMNS = 4, 12
MOST_POSITIONS = 100_000
_CELLS, _DEBRIS, _MOTION, _CAMERA = range(4)  # purposes of random numbers, each with its own stream


Size = Annotated[int, Field(ge=1, le=2**15)]
PixelSize = Annotated[float, Field(ge=0.01, le=100)]
LateralSize = Annotated[float, Field(ge=0.01, le=2)]


class SimulationConfig(Document):
    """What to simulate. Shapes are (Z, Y, X), lengths in µm."""

    shape: tuple[Size, Size, Size] = Field((12, 256, 256), description="--shape, voxels (z, y, x)")
    pixel_size_um: tuple[PixelSize, LateralSize, LateralSize] = Field(
        (1.0, 0.325, 0.325), description="--pixel-size, µm (z, y, x); cells of 15 µm must span several pixels"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="--seed")
    cells: int | None = Field(
        None, ge=1, le=10**6, description="--cells per area of one FOV, on average; None fills to the model's coverage"
    )
    time_points: int = Field(1, ge=1, le=10_000, description="--time-points")
    channels: Annotated[tuple[Literal[CHANNELS], ...], AfterValidator(each_once)] = Field(
        USUAL_CHANNELS, min_length=1, description=f"--channels of {' '.join(CHANNELS)}"
    )
    model: CellModel = CellModel()
    microscope: Microscope = Microscope()

    @property
    def dtype(self) -> np.dtype:
        """uint16 camera counts; float32 for all channels when one of them is the phase (an image has one type)."""
        return np.dtype(np.float32 if "Phase" in self.channels else np.uint16)


@dataclass(frozen=True)
class FovGrid:
    """How the recorded FOV lies in the larger, finer grid of the specimen."""

    shape: tuple[int, int, int]
    pixel_size_um: tuple[float, float, float]
    focal_layers: tuple[int, ...]
    """The specimen's layers that the microscope focuses on, one per recorded slice."""
    margin_yx: tuple[int, int]

    def crop(self, planes: np.ndarray) -> np.ndarray:
        """The recorded FOV of (..., Y, X)."""
        my, mx = self.margin_yx
        return planes[..., my : planes.shape[-2] - my, mx : planes.shape[-1] - mx]


def fov_grid(config: SimulationConfig) -> FovGrid:
    """The specimen's grid for a recorded stack: an odd number of layers per slice, deep enough for every cell."""
    size_z, size_y, size_x = config.shape
    dz, dy, dx = config.pixel_size_um
    fine = math.ceil(dz / _LAYER_UM)
    fine += 1 - fine % 2
    # In whole slices above and below the stack, so that the stack stays centred on the cells.
    beyond = max(0, math.ceil((config.model.layer_um / dz - size_z) / 2))
    focal_layers = tuple(fine * (beyond + z) + fine // 2 for z in range(size_z))
    margin = (math.ceil(_MARGIN_UM / dy), math.ceil(_MARGIN_UM / dx))
    shape = (fine * (size_z + 2 * beyond), size_y + 2 * margin[0], size_x + 2 * margin[1])
    return FovGrid(shape, (dz / fine, dy, dx), focal_layers, margin)


def simulate_cells(config: SimulationConfig, index: int) -> Iterator[list[Cell]]:
    """The cells of a position, time point after time point; coordinates have the FOV's centre as origin.

    Raises UserError when as many cells as asked for do not fit.
    """
    grid = fov_grid(config)
    extent = (grid.shape[1] * grid.pixel_size_um[1], grid.shape[2] * grid.pixel_size_um[2])
    density = None
    if config.cells is not None:
        (size_y, size_x), (dy, dx) = config.shape[1:], config.pixel_size_um[1:]
        density = config.cells / (size_y * dy * size_x * dx)
    cells = place_cells(np.random.default_rng([config.seed, index, _CELLS]), config.model, extent, density)
    motion = np.random.default_rng([config.seed, index, _MOTION])
    for time in range(config.time_points):
        if time:
            cells = move_cells(motion, config.model, cells)
        yield cells


def simulate_specimen(config: SimulationConfig, index: int, cells: Sequence[Cell]) -> Specimen:
    """The specimen of a position with the given cells, margins included."""
    grid = fov_grid(config)
    return draw_specimen(
        cells,
        grid.shape,
        grid.pixel_size_um,
        config.model,
        medium_index=config.microscope.medium_index,
        debris_seed=[config.seed, index, _DEBRIS],
    )


def record_channel(config: SimulationConfig, specimen: Specimen, channel: str, index: int, time: int) -> np.ndarray:
    """One channel of one time point: (Z, Y, X), uint16 counts, or float32 rad/µm for "Phase"."""
    grid, microscope = fov_grid(config), config.microscope
    rng = np.random.default_rng([config.seed, index, _CAMERA, time, CHANNELS.index(channel)])
    if channel == "Phase":
        return grid.crop(imaging.phase_density(specimen, microscope, grid.focal_layers))
    if channel == "BF":
        intensity = grid.crop(imaging.brightfield(specimen, microscope, grid.focal_layers))
        return imaging.expose_brightfield(intensity, microscope, rng)
    light = grid.crop(imaging.fluorescence(specimen, microscope, channel, grid.focal_layers))
    return imaging.expose_fluorescence(light, microscope, rng)


def simulate_position(config: SimulationConfig, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Everything recorded at a position: image (T, C, Z, Y, X) of `config.dtype`, labels name -> (T, 1, Z, Y, X) int32.

    "BF" and the stains are camera counts, "Phase" is the phase density in rad/µm. Nucleus i lies in cell i, and a cell
    keeps its number over time.
    """
    grid = fov_grid(config)
    image = np.empty((config.time_points, len(config.channels), *config.shape), config.dtype)
    labels = {name: np.empty((config.time_points, 1, *config.shape), np.int32) for name in LABELS}
    for time, cells in enumerate(simulate_cells(config, index)):
        specimen = simulate_specimen(config, index, cells)
        for name, values in labels.items():
            values[time, 0] = grid.crop(specimen.labels[name][list(grid.focal_layers)])
        for c, channel in enumerate(config.channels):
            image[time, c] = record_channel(config, specimen, channel, index, time)
    return image, labels


def position_bytes(config: SimulationConfig) -> int:
    """About as much memory as `simulate_position` takes."""
    voxels, recorded = math.prod(fov_grid(config).shape), config.time_points * math.prod(config.shape)
    stored = len(config.channels) * config.dtype.itemsize + 4 * len(LABELS)
    return _BYTES_PER_VOXEL * voxels + stored * recorded


def position_name(index: int) -> str:
    """Where a position lies on the plate: four FOVs per well, twelve wells per row, "A/1/0", "A/1/1", ..."""
    well, place = divmod(index, _FOVS_PER_WELL)
    row, column = divmod(well, _COLUMNS)
    letters = ""
    row += 1
    while row:
        row, letter = divmod(row - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}/{column + 1}/{place}"


def _write_position(
    writer: PlateWriter, config: SimulationConfig, index: int, image: np.ndarray, labels: dict[str, np.ndarray]
) -> None:
    name = position_name(index)
    position = writer.create_position(
        name,
        shape=image.shape,
        dtype=image.dtype,
        channel_names=list(config.channels),
        pixel_size_um=config.pixel_size_um,
        attributes={SIMULATION_ATTRIBUTE: SimulatedImage(seed=config.seed, index=index).model_dump()},
    )
    position.array().write(image).result()
    for label, values in labels.items():
        writer.create_label(name, label, values.shape, values.dtype).write(values).result()


def write_plate(
    url: str,
    config: SimulationConfig,
    positions: int,
    *,
    ngff_version: str = "0.5",
    overwrite: bool = False,
    threads: int | None = None,
) -> None:
    """Simulate `positions` positions and write them as an HCS plate with labels "nuclei" and "cells".

    The plate's attribute `vsjax_simulation` holds the settings, and `"complete": true` once everything is written.
    Raises UserError when the output exists (and `overwrite` is false) or when `positions` is below 1.
    """
    if not 1 <= positions <= MOST_POSITIONS:
        raise UserError(f"--positions {positions}: must be from 1 to {MOST_POSITIONS}")
    threads = threads or min(4, os.cpu_count() or 1)
    remedy = "ask for a smaller --shape or fewer --time-points or --threads, or larger pixels"
    check_memory(
        f"--shape {config.shape}: {min(threads, positions)} positions at once",
        position_bytes(config) * min(threads, positions),
        remedy,
    )
    if config.cells is not None:
        for index in range(positions):  # cells that do not fit: say so before anything is written
            next(simulate_cells(config, index))
    record = SimulationRecord(**config.model_dump(), positions=positions, complete=False)
    attributes = {SIMULATION_ATTRIBUTE: record.model_dump(mode="json")}
    writer = create_plate(url, ngff_version=ngff_version, overwrite=overwrite, attributes=attributes)
    with ThreadPoolExecutor(threads) as pool, tqdm(total=positions, desc="simulating", unit="position") as bar:
        for first in range(0, positions, threads):  # a few at a time: memory does not grow with the plate
            indices = range(first, min(first + threads, positions))
            results = pool.map(lambda index: simulate_position(config, index), indices)
            for index, (image, labels) in zip(indices, results, strict=True):
                _write_position(writer, config, index, image, labels)
                bar.update()
    done = record.model_copy(update={"complete": True})
    writer.plate.write_attribute(SIMULATION_ATTRIBUTE, done.model_dump(mode="json"))
