"""Write the small PyTorch files that the tests read. Needs PyTorch: `python tests/interop/make_files.py`.

Every tensor holds 0, 1, 2, ... in its own order of axes, in a type and layout that a reader can get wrong.
"""

import argparse
import pathlib

import torch


def tensors() -> dict[str, torch.Tensor]:
    """Shared storages, offsets, strides, all the types."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    named = {
        "base": base,
        "rows_from_1": base[1:],
        "every_other_column": base[:, ::2],
        "transposed": base.T,
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
    }
    for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        named[name] = torch.arange(5).to(getattr(torch, name))
    named["bool"] = torch.tensor([True, False, True])
    return named


def main() -> None:
    folder = pathlib.Path(__file__).parent / "files"
    lightning = {
        "epoch": 3,
        "state_dict": {f"model.{name}": tensor for name, tensor in tensors().items()},
        "hyper_parameters": {"lr": 2e-4, "loss": torch.nn.MSELoss(), "config": argparse.Namespace(depth=5)},
        "callbacks": {"path": pathlib.PurePosixPath("a/b")},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}}],
        "dtype": torch.float32,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
    }
    torch.save(lightning, folder / "lightning.ckpt")
    torch.save(
        torch.nn.BatchNorm1d(3).state_dict(), folder / "state_dict_legacy.pth", _use_new_zipfile_serialization=False
    )


if __name__ == "__main__":
    main()
