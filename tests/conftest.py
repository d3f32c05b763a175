"""Fixtures that every folder of tests shares."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
import zarr

from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.runtime.description import Description
from vsjax.simulation import SimulationConfig, write_plate

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


@pytest.fixture(scope="session")
def describe_weights():
    """`describe_weights(config.model, source channels, target channels, scope, statistic)`: for `save_variables`."""

    def describe(model, source, target, scope="fov", statistic="mean_std"):
        normalization = {"scope": scope, "statistic": statistic}
        return Description(
            config={"model": model, "task": {"name": "regression"}, "dtype": "float32"},
            channels={
                role: {"channels": tuple(channels), "normalization": normalization}
                for role, channels in (("source", source), ("target", target))
            },
        )

    return describe


# --- Plates made by zarr-python with hand-written metadata: nothing of vsjax's own writer in them

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def _attributes(group: zarr.Group, version: str, ome: dict, **others) -> None:
    group.attrs.update(others | (ome if version == "0.4" else {"ome": {"version": "0.5", **ome}}))


def write_zarr_image(
    group: zarr.Group,
    array: np.ndarray,
    axes: str,
    version: str,
    channels=None,
    scale=None,
    unit="micrometer",
    **others,
) -> None:
    """One image with one resolution, its axes stored as `axes` says, in an open zarr group."""
    group.create_array("0", data=array, chunks=tuple(max(1, (n + 1) // 2) for n in array.shape))
    listed = [{"name": a, "type": TYPES[a], **({"unit": unit} if TYPES[a] == "space" and unit else {})} for a in axes]
    transform = {"type": "scale", "scale": list(scale or [1.0] * len(axes))}
    multiscale = {"axes": listed, "datasets": [{"path": "0", "coordinateTransformations": [transform]}]}
    if version == "0.4":
        multiscale["version"] = "0.4"
    ome = {"multiscales": [multiscale]}
    if channels:
        ome["omero"] = {"channels": [{"label": name} for name in channels]}
    _attributes(group, version, ome, **others)


def write_zarr_plate(path: Path, images: dict, axes: str = "tczyx", version: str = "0.4", **image) -> Path:
    """An HCS plate of the images {"A/1/0": array, ...}."""
    top = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    wells = list(dict.fromkeys(name.rpartition("/")[0] for name in images))
    rows = list(dict.fromkeys(well.split("/")[0] for well in wells))
    columns = list(dict.fromkeys(well.split("/")[1] for well in wells))
    listed = [
        {"path": w, "rowIndex": rows.index(w.split("/")[0]), "columnIndex": columns.index(w.split("/")[1])}
        for w in wells
    ]
    plate = {"rows": [{"name": r} for r in rows], "columns": [{"name": c} for c in columns], "wells": listed}
    _attributes(top, version, {"plate": {**plate, "version": version}})
    for well in wells:
        fields = [name.rpartition("/")[2] for name in images if name.rpartition("/")[0] == well]
        group = top.create_group(well)
        _attributes(group, version, {"well": {"images": [{"path": field} for field in fields], "version": version}})
    for name, array in images.items():
        write_zarr_image(top.create_group(name), array, axes, version, **image)
    return path


@pytest.fixture(scope="session")
def zarr_plate():
    """`write_plate(path, {"A/1/0": array}, axes, version, channels=..., scale=..., unit=...)`."""
    return write_zarr_plate


@pytest.fixture(scope="session")
def zarr_image():
    """`write_image(zarr group, array, axes, version, ...)`."""
    return write_zarr_image
