"""Plates of a few noisy images, written for one test each."""

from pathlib import Path

import numpy as np

from vsjax.plates.writer import create_plate

POSITIONS = ("A/1/0", "A/1/1", "B/2/0")
SHAPE = (2, 3, 2, 24, 30)  # T, C, Z, Y, X
CHANNELS = ("Phase", "nuclei", "membrane")
NAMES = ("nuclei_prediction", "membrane_prediction")


def write(path: Path, stacks: dict[str, np.ndarray], channels: tuple[str, ...], attributes: dict | None = None) -> Path:
    writer = create_plate(path)
    for name, stack in stacks.items():
        position = writer.create_position(
            name,
            shape=stack.shape,
            dtype=stack.dtype,
            channel_names=channels,
            pixel_size_um=(2.0, 0.5, 0.5),
            attributes=attributes,
        )
        position.array()[...].write(stack).result()
    return path
