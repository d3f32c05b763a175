"""What a simulated plate says of how it was made, and each of its images: written by `vsjax.simulate`."""

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from vsjax.schema import Document

SIMULATION_ATTRIBUTE = "vsjax_simulation"


class SimulationRecord(Document):
    """What the top of a simulated plate says: the settings, see `simulate.SimulationConfig`."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="Z, Y, X")
    pixel_size_um: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(description="z, y, x")
    seed: NonNegativeInt
    cells: PositiveInt | None = Field(description="per FOV, on average; null fills to the model's coverage")
    time_points: PositiveInt
    channels: tuple[str, ...]
    model: dict[str, Any] = Field(description="optics.cells.CellModel")
    microscope: dict[str, Any] = Field(description="optics.imaging.Microscope")
    positions: PositiveInt
    complete: bool = Field(description="whether every position is written")


class SimulatedImage(Document):
    """What an image of a simulated plate says."""

    seed: NonNegativeInt
    index: NonNegativeInt = Field(description="of the position")
