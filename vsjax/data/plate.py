"""OME-Zarr plates and single images: `open_plate` reads them, `create_plate` writes new ones.

    plate = open_plate("P.zarr")
    volume = read(plate["A/4/0"].array()[0, 1].read(), where="A/4/0")  # T, C, Z, Y, X

The reader is in plate_reader.py and position.py, the writer in plate_writer.py.
"""

from vsjax.data.arrays import read
from vsjax.data.plate_reader import Plate, describe_positions, open_plate, require_same_channels
from vsjax.data.plate_writer import PlateWriter, create_plate
from vsjax.data.position import Position

__all__ = [
    "Plate",
    "PlateWriter",
    "Position",
    "create_plate",
    "describe_positions",
    "open_plate",
    "read",
    "require_same_channels",
]
