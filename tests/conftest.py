"""Fixtures that every folder of tests shares."""

import os
from pathlib import Path

import jax
import pytest

from vsjax.data.plate import open_plate
from vsjax.data.statistics import write_statistics
from vsjax.simulate import SimulationConfig, write_plate

# Tests and the programs that they start share what XLA compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and reference numbers beside the repository; tests that need them skip where they are absent."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs ../shared (real images and reference numbers), which is not here")
    return path


@pytest.fixture(scope="session")
def simulated_plate(tmp_path_factory) -> Path:
    """A small simulated plate with statistics: three FOVs of (1, 3, 5, 96, 96), to be read only."""
    path = tmp_path_factory.mktemp("simulated") / "cells.zarr"
    config = SimulationConfig(shape=(5, 96, 96), seed=1, channels=("BF", "nuclei", "membrane"))
    write_plate(str(path), config, 3)
    write_statistics(open_plate(path))
    return path
