"""A level for tests: how bright each labelled object is. As a program it evaluates, slowly, with this level."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from skimage.measure import regionprops

from vsjax.evaluation.comparison import evaluate
from vsjax.evaluation.level import Measurement, Metric, Results, Row
from vsjax.evaluation.pairing import Pair
from vsjax.evaluation.report import summarize
from vsjax.program import run_program


@dataclass(frozen=True)
class Areas:
    pause: float = 0.0  # seconds that every pair takes

    name: ClassVar[str] = "areas"
    requires: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[Mapping[str, Metric]] = {
        "objects": Metric("objects", "number of labels", None),
        "error": Metric("error", "mean absolute difference of the objects' means", "lower"),
    }
    objects: ClassVar[Mapping[str, Metric]] = {
        "label": Metric("label", "the object's number", None),
        "area": Metric("area", "in pixels", None),
        "error": Metric("error", "mean of the prediction minus that of the target", None),
    }

    def measure(self, pair: Pair) -> Measurement:
        time.sleep(self.pause)
        difference = pair.prediction - pair.target
        found = regionprops(pair.beside["labels"], difference)
        objects = [{"label": o.label, "area": o.area, "error": o.intensity_mean} for o in found]
        if not objects:
            return Measurement({"objects": 0, "error": np.nan}, ["no objects"])
        return Measurement(
            {"objects": len(found), "error": np.mean([abs(o["error"]) for o in objects])}, objects=objects
        )

    def summarize(self, results: Results) -> list[Row]:
        return summarize(results.rows, self.metrics)

    def draw(self, output: Path, results: Results) -> None:
        (output / "areas.txt").write_text(f"{results.source}, {len(results.objects.read_text().splitlines())} lines")


def main() -> None:
    prediction, target, output, process, processes, pause = sys.argv[1:]
    share = {"process": int(process), "processes": int(processes)}
    print(evaluate(prediction, target, output, levels=["pixel", Areas(float(pause))], labels="blobs", **share).complete)


if __name__ == "__main__":
    run_program("evaluate", main)
