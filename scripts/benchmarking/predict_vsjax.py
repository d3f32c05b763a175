"""vsjax's side of plate to plate: what `python -m vsjax.predict` does once its modules are there."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scripts.benchmarking.device_vsjax import device_report
from scripts.benchmarking.experiment_vsjax import family_config
from scripts.benchmarking.side import Work, serve
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.interop.conversion import convert_file
from vsjax.models.registry import network_of
from vsjax.runtime.checkpoint import save_variables
from vsjax.runtime.description import make_description


def prepare(request: Mapping[str, Any]) -> Work:
    """Load the weights and predict the plate once, which compiles."""
    folder = Path(request["folder"])
    config = family_config(request)
    save_variables(folder / "run", _variables(config, request.get("weights")), make_description(_said(config), "plate"))
    predictor = load(folder / "run")
    outputs: list[Path] = []

    def run() -> None:
        outputs.append(folder / f"vsjax_{len(outputs)}.zarr")
        predict_plate(predictor, request["plate"], outputs[-1], settings=PredictionSettings())

    start = time.perf_counter()
    run()
    report = {"first_seconds": time.perf_counter() - start}
    return Work(run, report, lambda: {"output": str(outputs[-1]), **device_report()})


def _variables(config: ConfigDict, weights: str | None) -> dict[str, Any]:
    """VisCy's weights, converted, or random ones."""
    settings = config.model.to_dict()
    name = settings.pop("name")
    if weights:
        return convert_file(weights, name, settings).variables
    network = network_of(config)
    x = np.zeros((1, *config.data.patch, network.in_channels), np.float32)
    return jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(x)


def _said(config: ConfigDict) -> dict[str, Any]:
    """The description of a run with this config."""
    return {"config": config.to_dict(), "channels": {name: config.roles[name].to_dict() for name in config.roles}}


if __name__ == "__main__":
    serve(prepare)
