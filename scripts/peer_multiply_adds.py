"""VisCy's own networks on a 2048 x 2048 FOV: parameters and multiply-adds, to compare with scripts/paper_table1.py.

    PYTHON_WITH_TORCH_AND_VISCY -m scripts.peer_multiply_adds

Needs `viscy==0.4.1` and PyTorch, and nothing of vsjax. Products are counted at each convolution and linear layer as it
runs (on PyTorch's "meta" device, so nothing is computed). Where ptflops is installed (0.6.9 or 0.7.0; later ones count
more) its count is printed too: it adds biases, norms, activations and poolings, and is what the paper's table holds."""

import importlib.util
import math

import torch
from peer_training_parity import declare_torchvision_operators
from torch import nn

PLANE = 2048
ROWS = (
    ("UNeXt2", "UNeXt2", {"in_stack_depth": 5, "out_channels": 2}),
    ("UNeXt2, head_pool", "UNeXt2", {"in_stack_depth": 5, "out_channels": 2, "head_pool": True}),
    ("VSNeuromast", "UNeXt2", {"in_stack_depth": 21, "stem_kernel_size": (7, 4, 4), "out_channels": 2}),
    ("2.5D U-Net, 2 targets", "Unet25d", {"in_stack_depth": 5, "out_channels": 2, "residual": True, "task": "reg"}),
    ("2.5D U-Net, 1 target", "Unet25d", {"in_stack_depth": 5, "out_channels": 1, "residual": True, "task": "reg"}),
    ("VSCyto2D", "FCMAE", {"in_stack_depth": 1, "stem_kernel_size": (1, 2, 2), "out_channels": 2, "blocks": 2}),
    ("FCMAE 3-D, 5 slices", "FCMAE", {"in_stack_depth": 5, "out_channels": 2, "blocks": 2}),
    ("FCMAE 3-D, 15 slices", "FCMAE", {"in_stack_depth": 15, "out_channels": 2, "blocks": 2}),
    ("its pre-training", "FCMAE", {"in_stack_depth": 5, "out_channels": 1, "blocks": 1}),
)


def build(name: str, settings: dict[str, object]) -> nn.Module:
    """One of VisCy's networks, ready to predict."""
    from viscy.unet.networks.fcmae import FullyConvolutionalMAE
    from viscy.unet.networks.Unet25D import Unet25d
    from viscy.unet.networks.unext2 import UNeXt2

    if name == "FCMAE":
        settings = {"in_channels": 1, "pretraining": False, **settings}
        settings["decoder_conv_blocks"] = settings.pop("blocks")
        return FullyConvolutionalMAE(**settings).eval()
    return {"UNeXt2": UNeXt2, "Unet25d": Unet25d}[name](**settings).eval()


def products(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of every convolution and linear layer that is called for an input of `shape`, by hooks on them."""
    total = 0

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += out.numel() * module.in_features
        else:
            total += out.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)

    counted = nn.Conv2d | nn.Conv3d | nn.Linear
    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, counted)]
    with torch.no_grad():
        model(torch.empty(shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


def ptflops_count(model: nn.Module, shape: tuple[int, ...]) -> float:
    """What ptflops prints for an input of `shape`; not a number where it is not installed."""
    if importlib.util.find_spec("ptflops") is None:
        return float("nan")
    from ptflops import get_model_complexity_info

    return float(get_model_complexity_info(model, shape, as_strings=False, print_per_layer_stat=False)[0])


def main() -> None:
    """Print one line per network."""
    declared = declare_torchvision_operators()  # as long as this object lives
    print(f"{'network':24} {'parameters':>12} {'G products':>12} {'G ptflops':>12}")
    for label, name, settings in ROWS:
        model = build(name, settings).to("meta")
        shape = (1, int(settings["in_stack_depth"]), PLANE, PLANE)
        parameters = sum(p.numel() for p in model.parameters())
        counts = products(model, (1, *shape)) / 1e9, ptflops_count(model, shape) / 1e9
        print(f"{label:24} {parameters:12,} {counts[0]:12.3f} {counts[1]:12.3f}")
    del declared


if __name__ == "__main__":
    main()
