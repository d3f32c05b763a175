"""VisCy's side of `bench_data`: batches as Lightning gets them from `HCSDataModule`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from scripts.benchmarking import measure, viscy_networks  # before viscy: it lets torchvision be imported
from scripts.benchmarking.side import Work, serve
from scripts.benchmarking.viscy_data import crops, data_module, standard_augmentations


def prepare(request: Mapping[str, Any]) -> Work:
    """Open the plate and read on."""
    torch.manual_seed(request["seed"])
    patch = request["family"]["patch"]
    augmentations = standard_augmentations(request) if request["augment"] else [crops(request, patch[1:])]
    data = data_module(request, augmentations)
    data.setup("fit")
    shapes: dict[str, list[int]] = {}

    def take(batches: Iterator[Mapping[str, Any]], count: int) -> None:
        for _ in range(count):
            batch = data.on_before_batch_transfer(next(batches), 0)
            for name in ("source", "target"):
                shapes[name] = list(batch[name].shape)
                batch[name].to(viscy_networks.DEVICE)
        viscy_networks.wait()

    def run() -> float:
        batches = iter(data.train_dataloader())  # its workers end with it: they do not work in the other side's turns
        take(batches, max(1, request["workers"]))  # until every worker has started
        return measure.seconds(lambda: take(batches, request["batches"]))

    run()
    samples = request["batches"] * request["batch"]
    return Work(run, {"samples": samples, "shapes": shapes}, viscy_networks.device_report)


if __name__ == "__main__":
    serve(prepare)
