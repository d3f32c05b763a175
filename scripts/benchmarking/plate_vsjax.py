"""Write the plate that both sides read, with statistics, and say what the family's config says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarking.experiment_vsjax import family_config, settings_of
from scripts.benchmarking.side import Work, serve
from vsjax.intensity.statistics import write_statistics
from vsjax.models.registry import network_of
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate

PIXEL_SIZE_UM = (1.0, 0.325, 0.325)
COARSE = 16  # pixels of the smooth part of an image


def prepare(request: Mapping[str, Any]) -> Work:
    """A plate of `positions` images of `shape` (T, Z, Y, X), stored in `chunks`, in `folder`."""
    config = family_config(request)
    channels = [name for role in config.roles.values() for name in role.channels]
    url = Path(request["folder"]) / "plate.zarr"
    random = np.random.default_rng(request["seed"])
    times, *space = request["shape"]
    writer = create_plate(url, ngff_version="0.4")
    for number in range(request["positions"]):
        position = writer.create_position(
            f"A/{number + 1}/0",
            shape=(times, len(channels), *space),
            dtype=np.uint16,
            channel_names=channels,
            pixel_size_um=PIXEL_SIZE_UM,
            chunks=request["chunks"],
        )
        for time in range(times):
            position.array()[time].write(np.stack([counts(random, space) for _ in channels])).result()
    write_statistics(open_plate(url))
    network = network_of(config)
    return Work(lambda: None, {"plate": str(url), "settings": settings_of(config, network.out_depth)})


def counts(random: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A stack of camera counts: something smooth, and noise that does not compress."""
    depth, *plane = shape
    coarse = random.gamma(2.0, 200.0, [-(-size // COARSE) for size in plane]).astype(np.float32)
    smooth = coarse.repeat(COARSE, 0).repeat(COARSE, 1)[: plane[0], : plane[1]]
    noise = random.standard_normal((depth, *plane), np.float32)
    return np.clip(100 + smooth + 10 * noise, 0, 65535).astype(np.uint16)


if __name__ == "__main__":
    serve(prepare)
