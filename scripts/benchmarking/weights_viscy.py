"""Write random weights of VisCy's network as Lightning keeps them, for both sides to predict with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarking import viscy_networks
from scripts.benchmarking.side import Work, serve

SHIFT = 0.02  # standard deviation of what is added to each weight, so that none that begins at zero (GRN) stays there


def prepare(request: Mapping[str, Any]) -> Work:
    """`weights.ckpt` in `folder`."""
    torch.manual_seed(request["seed"])
    network = viscy_networks.build(request["family"]["viscy"], request["settings"]["model"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(SHIFT * torch.randn_like(parameter))
    path = Path(request["folder"]) / "weights.ckpt"
    torch.save({"state_dict": {f"model.{name}": value.cpu() for name, value in network.state_dict().items()}}, path)
    return Work(lambda: None, {"weights": str(path)})


if __name__ == "__main__":
    serve(prepare)
