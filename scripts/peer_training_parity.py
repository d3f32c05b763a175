"""Train VisCy's UNeXt2 for a few steps in PyTorch and write down its losses, for tests/interop/test_training_parity.py.

    PYTHON_WITH_TORCH_AND_VISCY -m scripts.peer_training_parity

Needs `viscy==0.4.1` and PyTorch, and nothing of vsjax. Weights and batch are made from a seed by NumPy
(tests/interop/seeded_weights.py), so that only the losses, the tensors' shapes and the settings need keeping."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

INTEROP = Path(__file__).resolve().parents[1] / "tests" / "interop"
SETTINGS: dict[str, Any] = {
    "seed": 1,
    "batch": [2, 5, 192, 192],  # B, Z, Y, X: the smallest plane that 32 divides and that five scales of SSIM fit into
    "steps": 8,
    "optimizer": {"lr": 1e-3, "weight_decay": 0.01},
    "loss": {"l1_alpha": 0.5, "l2_alpha": 0.0, "ms_dssim_alpha": 0.5},
    "model": {
        "in_channels": 1,
        "out_channels": 2,
        "in_stack_depth": 5,
        "backbone": "convnextv2_atto",
        "stem_kernel_size": [5, 4, 4],
        "decoder_conv_blocks": 2,
        "head_pool": True,
        "head_expansion_ratio": 4,
        "drop_path_rate": 0.0,
    },
}


def declare_torchvision_operators() -> torch.library.Library:
    """Let a torchvision whose binary does not fit this PyTorch be imported; nothing here calls what it declares."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def train(dtype: torch.dtype) -> tuple[list[float], dict[str, list[int]], float]:
    """The loss before each step and after the last, the tensors' shapes, and the sum of all weights."""
    from seeded_weights import seeded_batch, seeded_state
    from viscy.translation.engine import MixedLoss
    from viscy.unet.networks.unext2 import UNeXt2

    model = UNeXt2(**SETTINGS["model"]).train()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    state = seeded_state(shapes, SETTINGS["seed"])
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    model.to(dtype)
    source, target = (torch.from_numpy(a).to(dtype) for a in seeded_batch(SETTINGS["batch"], SETTINGS["seed"]))
    loss_of = MixedLoss(**SETTINGS["loss"])
    optimizer = torch.optim.AdamW(model.parameters(), **SETTINGS["optimizer"])
    losses = []
    for _ in range(SETTINGS["steps"]):
        optimizer.zero_grad()
        loss = loss_of(model(source), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(loss_of(model(source), target).item())
    return losses, shapes, float(sum(value.sum(dtype="float64") for value in state.values()))


def main() -> None:
    """Train in float32 and in float64, print both, write the file that the test reads."""
    declared = declare_torchvision_operators()  # as long as this object lives
    sys.path.insert(0, str(INTEROP))
    torch.use_deterministic_algorithms(True)
    losses, shapes, total = train(torch.float32)
    exact, _, _ = train(torch.float64)
    del declared
    for step, (single, double) in enumerate(zip(losses, exact, strict=True)):
        print(f"after {step} steps: float32 {single:.9f}  float64 {double:.9f}  relative {single / double - 1:+.1e}")
    made_with = {"python": platform.python_version(), **{name: version(name) for name in ("torch", "viscy", "timm")}}
    document = {
        "made_by": "scripts/peer_training_parity.py",
        "made_with": made_with,
        **SETTINGS,
        "losses": losses,
        "losses_float64": exact,
        "sum_of_weights": total,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    tensors = ",\n".join(f"    {json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items())
    body = ",\n".join([*lines, f'  "shapes": {{\n{tensors}\n  }}'])
    (INTEROP / "files" / "training_parity.json").write_text(f"{{\n{body}\n}}\n")


if __name__ == "__main__":
    main()
