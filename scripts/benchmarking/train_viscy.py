"""VisCy's side of `bench_train`: its network, its loss and AdamW as `VSUNet.configure_optimizers` makes it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scripts.benchmarking import viscy_networks  # before viscy: it lets torchvision be imported
from scripts.benchmarking.inputs import images
from scripts.benchmarking.side import Work, serve

from viscy.translation.engine import MaskedMSELoss, MixedLoss  # isort: skip


def prepare(request: Mapping[str, Any]) -> Work:
    """Build what vsjax's side has built and take one step."""
    torch.manual_seed(request["seed"])
    family, settings = request["family"], request["settings"]
    network = viscy_networks.build(family["viscy"], settings["model"], family["masked"]).train()
    parameters = viscy_networks.parameters_of(network)
    batch = _batch(request)
    loss_of = _loss(torch.compile(network) if request["compiled"] else network, family, settings["task"])
    rule = settings["optimizer"]
    optimizer = torch.optim.AdamW(network.parameters(), lr=rule["learning_rate"], weight_decay=rule["weight_decay"])
    losses = []

    def run() -> None:
        optimizer.zero_grad()
        with viscy_networks.precision(request["dtype"]):
            loss = loss_of(*batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        viscy_networks.wait()

    start = time.perf_counter()
    run()
    report = {
        "first_seconds": time.perf_counter() - start,
        "parameters": parameters,
        "rates": viscy_networks.matrix_rates(),
    }
    return Work(run, report, lambda: {"losses": losses, **viscy_networks.device_report()})


def _batch(request: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target `[B, C, Z, Y, X]`; of the target the middle slices, as many as are predicted."""
    family, settings = request["family"], request["settings"]
    model = settings["model"]
    source, target = images(
        family["batch"], family["patch"], model["in_channels"], model["out_channels"], request["seed"]
    )
    depth = settings["out_depth"]
    first = (target.shape[2] - depth) // 2
    tensors = (source, target[:, :, first : first + depth])
    source, target = (torch.from_numpy(array.copy()).to(viscy_networks.DEVICE) for array in tensors)
    return source, target


def _loss(network: nn.Module, family: Mapping[str, Any], task: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """The loss as a function of source and target, as `VSUNet` and `FcmaeUNet` compute it."""
    if family["masked"]:
        masked_loss = MaskedMSELoss()

        def restore(source: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            restored, mask = network(source, task["mask_ratio"])
            return masked_loss(restored, source, mask)

        return restore
    weights = task["loss"]
    mixed_loss = MixedLoss(weights["l1"], weights["l2"], weights["ms_dssim"])
    return lambda source, target: mixed_loss(network(source), target)


if __name__ == "__main__":
    serve(prepare)
