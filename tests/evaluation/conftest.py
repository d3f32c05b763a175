"""A plate of measured channels and the stacks of a prediction of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_plates import CHANNELS, NAMES, POSITIONS, SHAPE, write

from vsjax.plates.writer import create_plate


@pytest.fixture
def measured() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(100, 3000, SHAPE).astype(np.uint16) for name in POSITIONS}


@pytest.fixture
def predicted(measured) -> dict[str, np.ndarray]:
    """Nuclei and membrane in raw units, with an error that grows from position to position."""
    rng = np.random.default_rng(1)
    return {
        name: stack[:, 1:].astype(np.float32) + rng.normal(0, 200 * (index + 1), (2, 2, 2, 24, 30)).astype(np.float32)
        for index, (name, stack) in enumerate(measured.items())
    }


@pytest.fixture
def target(tmp_path, measured) -> Path:
    return write(tmp_path / "P.zarr", measured, CHANNELS)


@pytest.fixture
def prediction(tmp_path, predicted) -> Path:
    return write(tmp_path / "S.zarr", predicted, NAMES)


@pytest.fixture
def blobs(measured) -> dict[str, np.ndarray]:
    """Labels of bright blobs by position, numbers with a gap; one image has none."""
    rng = np.random.default_rng(2)
    found = {}
    for name, stack in measured.items():
        smooth = ndimage.gaussian_filter(rng.normal(size=(len(stack), 1, *SHAPE[2:])), (0, 0, 0, 2, 2))
        found[name] = np.stack([ndimage.label(image > 0.1)[0] for image in smooth]).astype(np.uint16)
        found[name][found[name] == 2] = 0
    found["B/2/0"][1] = 0
    return found


@pytest.fixture
def labelled(tmp_path, measured, blobs) -> Path:
    """The target plate with NGFF labels "blobs"."""
    path = write(tmp_path / "L.zarr", measured, CHANNELS)
    writer = create_plate(path, resume=True)
    for name, labels in blobs.items():
        array = writer.create_label(name, "blobs", shape=labels.shape, dtype=labels.dtype)
        array[...].write(labels).result()
    return path
