"""VisCy's side of a bare forward pass."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from scripts.benchmarking import viscy_networks
from scripts.benchmarking.inputs import images
from scripts.benchmarking.side import Work, serve


def prepare(request: Mapping[str, Any]) -> Work:
    """Build what vsjax's side has built and call it once."""
    torch.manual_seed(request["seed"])
    family, model = request["family"], request["settings"]["model"]
    network = viscy_networks.build(family["viscy"], model).eval()
    parameters = viscy_networks.parameters_of(network)
    source, _ = images(family["batch"], family["patch"], model["in_channels"], 1, request["seed"])
    x = torch.from_numpy(source).to(viscy_networks.DEVICE)
    apply = torch.compile(network) if request["compiled"] else network

    def run() -> None:
        with torch.inference_mode(), viscy_networks.precision(request["dtype"]):
            apply(x)
        viscy_networks.wait()

    start = time.perf_counter()
    run()
    report = {
        "first_seconds": time.perf_counter() - start,
        "parameters": parameters,
        "rates": viscy_networks.matrix_rates(),
    }
    return Work(run, report, viscy_networks.device_report)


if __name__ == "__main__":
    serve(prepare)
