"""VisCy's side of plate to plate: what `viscy predict` does once its modules are there (its trainer is Lightning's)."""

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarking import viscy_networks  # before viscy: it lets torchvision be imported
from scripts.benchmarking.side import Work, serve
from scripts.benchmarking.viscy_data import data_module

from lightning.pytorch import Trainer  # isort: skip
from viscy.translation.engine import VSUNet  # isort: skip
from viscy.translation.predict_writer import HCSPredictionWriter  # isort: skip

ARCHITECTURES = {"UNeXt2": "UNeXt2", "FullyConvolutionalMAE": "fcmae", "Unet25d": "2.5D", "Unet2d": "2D"}
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def prepare(request: Mapping[str, Any]) -> Work:
    """Load the weights and predict the plate once."""
    torch.set_num_threads(viscy_networks.measure.cores())
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    folder, name = Path(request["folder"]), request["family"]["viscy"]
    settings = viscy_networks.viscy_settings(name, request["settings"]["model"])
    model = VSUNet(ARCHITECTURES[name], model_config=settings, ckpt_path=request["weights"])
    if request["compiled"]:
        model.model.compile()
    data = data_module(request, augmentations=[])
    outputs: list[Path] = []

    def run() -> None:
        outputs.append(folder / f"viscy_{len(outputs)}.zarr")
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            precision=PRECISIONS[request["dtype"]],
            callbacks=[HCSPredictionWriter(str(outputs[-1]))],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.predict(model, datamodule=data, return_predictions=False)

    start = time.perf_counter()
    run()
    report = {"first_seconds": time.perf_counter() - start}
    return Work(run, report, lambda: {"output": str(outputs[-1]), **viscy_networks.device_report()})


if __name__ == "__main__":
    serve(prepare)
