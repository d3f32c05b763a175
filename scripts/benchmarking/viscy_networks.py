"""VisCy's networks from vsjax's settings, and PyTorch's device, precision and rates."""

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from scripts.benchmarking import measure
from scripts.peer_training_parity import declare_torchvision_operators

DECLARED = declare_torchvision_operators()  # as long as this object lives

from viscy.unet.networks.fcmae import FullyConvolutionalMAE  # noqa: E402
from viscy.unet.networks.Unet2D import Unet2d  # noqa: E402
from viscy.unet.networks.Unet25D import Unet25d  # noqa: E402
from viscy.unet.networks.unext2 import UNeXt2  # noqa: E402

NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (UNeXt2, FullyConvolutionalMAE, Unet25d, Unet2d)
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the matrix rate


def viscy_settings(name: str, settings: Mapping[str, Any], masked: bool = False) -> dict[str, Any]:
    """Of vsjax's settings, which have VisCy's names, those that its class has."""
    known = inspect.signature(NETWORKS[name]).parameters
    more = {"pretraining": masked} if "pretraining" in known else {}
    return {key: value for key, value in settings.items() if key in known} | more


def build(name: str, settings: Mapping[str, Any], masked: bool = False) -> nn.Module:
    """A network on the device."""
    torch.set_num_threads(measure.cores())
    return NETWORKS[name](**viscy_settings(name, settings, masked)).to(DEVICE)


def precision(dtype: str) -> AbstractContextManager:
    """What Lightning's `32-true` and `bf16-mixed` run a step in."""
    return torch.autocast(DEVICE, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def wait() -> None:
    """Until the device has done what was queued."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def parameters_of(network: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def matrix_rates() -> dict[str, float]:
    """Multiply-adds per second of a large product, by type, as PyTorch does it on this machine."""
    rates = {}
    for name in ("float32", "bfloat16"):
        x = torch.ones(SIDE[DEVICE], SIDE[DEVICE], dtype=getattr(torch, name), device=DEVICE)
        rates[name] = SIDE[DEVICE] ** 3 / measure.best_seconds(lambda x=x: (x @ x, wait()))
    return rates


def device_report() -> dict[str, Any]:
    """The device's name, and the most of its own memory that was in use; None where it has none."""
    if DEVICE == "cpu":
        return {"device": "cpu", "device_peak": None, "threads": torch.get_num_threads()}
    return {"device": torch.cuda.get_device_name(), "device_peak": torch.cuda.max_memory_allocated()}
