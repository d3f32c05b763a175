"""Table 1 of DiffStain (Han et al. 2025) in small, on simulated cells: how do its methods and UNeXt2 compare?

    python -m scripts.paper_diffstain --output runs/diffstain
    python -m scripts.paper_diffstain --output runs/diffstain_isl --plate isl_neurons_v04.zarr --source Phase \\
        --targets DAPI MAP2 NFH --test A/4/6 A/4/7 --seeds 1

Three simulated plates are three perturbations of two targets: cells of the usual form, spread ones and flat ones; the
last FOVs of each are for the test. Every method trains on the same crops for as many steps; UNeXt2 also for as long as
Palette takes. Palette, Palette† and DiffStain are one training, drawn without masks, with masks from local thresholds
and with masks of neural spectral clustering. Interrupted, the same command resumes. Writes scores.csv, table.md and
figure.png.
"""

import argparse
import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

from configs.common import base_config, channel_role, metadata_role, small_data_augmentation
from vsjax.evaluation.comparison import evaluate
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings, change_sampler
from vsjax.intensity.statistics import write_statistics
from vsjax.models.registry import model_settings
from vsjax.optics.cells import CellModel
from vsjax.plates.reader import open_plate
from vsjax.program import run_program
from vsjax.simulation import SimulationConfig, write_plate
from vsjax.training.loop import train

LOG = logging.getLogger("vsjax")
METRICS = ("mse", "mae", "pearson", "ssim")
PERTURBATIONS = {  # name: target, and the cells that it leaves
    "none": ("none", CellModel()),
    "spread": ("shape", CellModel(radius_um=(9.0, 12.0), flatness=0.35, elongation=0.45, nucleus_size=(0.36, 0.46))),
    "flat": ("shape", CellModel(flatness=0.25)),
}
DENOISER = {"inner_channels": 32, "channel_mults": (1, 2, 4), "res_blocks": 1}
FILTERS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Data:
    """Plates with the FOVs that are for the test, and the channels."""

    plates: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    targets: tuple[str, ...]
    depth: int
    out_depth: int | None  # slices that are predicted; None for as many


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        model, task: of the experiment.
        settings: of the model.
        label: attribute of the plates that says the class.
        trained_as: the row whose training it shares.
        sampler: how it draws.
        as_long_as: the row that it trains as long as.
    """

    model: str = "palette"
    task: str = "diffusion"
    settings: Mapping[str, Any] = field(default_factory=lambda: DENOISER)
    label: str = ""
    trained_as: str = ""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    as_long_as: str = ""


UNEXT2 = {"backbone": "convnextv2_atto", "head_pool": True}
UNET = {"num_blocks": 4, "num_filters": (*FILTERS, 256)}
METHODS = {
    "U-Net": Method("unet25d", "regression", {**UNET, "out_stack_depth": 1}),
    "DoDNet": Method("dodnet", "regression", UNET),
    "Class_per": Method(label="perturbation"),
    "Class_tar": Method(label="target"),
    "Palette": Method(),
    "Palette†": Method(trained_as="Palette", sampler={"masks": "threshold"}),
    "DiffStain": Method(trained_as="Palette", sampler={"masks": "nsc"}),
    "UNeXt2": Method("unext2", "regression", UNEXT2),
    "UNeXt2, as long as Palette": Method("unext2", "regression", UNEXT2, as_long_as="Palette"),
}


def simulate(output: Path, fovs: int, test_fovs: int) -> Data:
    """A plate of each perturbation."""
    plates, targets = [], ("nuclei", "membrane", "organelles")
    for number, (name, (target, model)) in enumerate(PERTURBATIONS.items()):
        plate = output / f"{name}.zarr"
        if not (output / f"{name}.ready").exists():
            config = SimulationConfig(shape=(5, 128, 128), seed=number, channels=("BF", *targets), model=model)
            write_plate(str(plate), config, fovs, overwrite=True)
            opened = open_plate(plate)
            opened.write_attribute("perturbation", name)
            opened.write_attribute("target", target)
            write_statistics(opened)
            (output / f"{name}.ready").touch()
        plates.append(str(plate))
    names = [position.name for position in open_plate(plates[0]).positions()]
    return Data(tuple(plates), tuple(names[-test_fovs:]), "BF", targets, 5, None)


def experiment(data: Data, method: Method, seed: int, steps: int) -> ConfigDict:
    """The same data, batches and schedule for every method."""
    settings = dict(method.settings)
    if "out_stack_depth" in model_settings(method.model):
        settings.setdefault("out_stack_depth", data.out_depth)
    if method.model == "unext2":
        settings["stem_kernel_size"] = (data.depth, 4, 4)
    config = base_config(method.model, method.task, **settings)
    config.seed = seed
    names = [position.name for position in open_plate(data.plates[0]).positions()]
    training = tuple(name for name in names if name not in data.test)
    config.data.update(plates=data.plates, weights=(1.0,) * len(data.plates), train_fovs=training, val_fraction=0.0)
    config.data.update(patch=(data.depth, 64, 64), batch_size=4)
    config.roles.source, config.roles.target = channel_role(data.source), channel_role(*data.targets)
    if method.label:
        choice = list(dict.fromkeys(open_plate(plate).attributes[method.label] for plate in data.plates))
        config.roles.label = metadata_role(method.label, *choice)
    config.augment.update(small_data_augmentation(intensity_scale=0.2))
    config.optim.update(learning_rate=1e-3, warmup_steps=min(50, steps - 1), average_decay=0.995)
    config.train.update(steps=steps, save_every=steps, validate_every=steps, log_every=20)
    if method.task == "diffusion":
        config.task.process.schedule.update(steps=1000, end=0.02)
        config.task.sampler.clustering.tile = 64
    else:
        config.task.loss.update(l1=1.0, ms_dssim=0.0)
    return config


def seconds_per_step(workdir: Path) -> float:
    """The median over the lines of its log."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return float(np.median([1 / line["steps_per_second"] for line in lines if "steps_per_second" in line]))


def run(data: Data, output: Path, name: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """Train and score a row with one seed; what was scored before is read back."""
    method, folder = METHODS[name], output / f"seed_{seed}"
    own = folder / name.replace(" ", "_").replace(",", "").replace("†", "_thresholds")
    workdir = folder / (method.trained_as or own.name)
    if (own / "scores.json").exists():
        return json.loads((own / "scores.json").read_text())
    if method.as_long_as:
        steps = round(steps * seconds_per_step(folder / method.as_long_as) / seconds_per_step(folder / "UNeXt2"))
    train(experiment(data, method, seed, steps), workdir)
    predictor = load(workdir)
    settings = PredictionSettings(sampler=change_sampler(predictor.sampler, method.sampler), seed=seed)
    own.mkdir(parents=True, exist_ok=True)
    scores, start = [], time.perf_counter()
    for number, plate in enumerate(data.plates):
        stained = own / f"stained_{number}.zarr"
        positions = list(data.test)
        predict_plate(predictor, plate, str(stained), positions=positions, settings=settings, overwrite=True)
        evaluate(stained, plate, own / f"report_{number}", levels=["pixel"], overwrite=True)
        with (own / f"report_{number}" / "pixel.csv").open() as file:
            scores += [{"plate": number, **row} for row in csv.DictReader(file)]
    seconds = (time.perf_counter() - start) / (len(data.plates) * len(data.test))
    kept = ("plate", "position", "channel", *METRICS)
    rows = [
        {"method": name, "seed": seed, "steps": steps, "seconds": seconds} | {k: row[k] for k in kept} for row in scores
    ]
    (own / "scores.json").write_text(json.dumps(rows))
    LOG.info("seed %d, %s: Pearson %.3f", seed, name, np.mean([float(row["pearson"]) for row in rows]))
    return rows


def interval(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float, float]:
    """Mean over fields and seeds, and its 95 % interval from resampling the fields (1000 bootstraps)."""
    fields = sorted({(row["plate"], row["position"]) for row in rows})
    values = [[float(r[metric]) for r in rows if (r["plate"], r["position"]) == place] for place in fields]
    means = np.array([np.mean(value) for value in values])
    drawn = np.random.default_rng(0).integers(0, len(means), (1000, len(means)))
    low, high = np.percentile(means[drawn].mean(axis=1), [2.5, 97.5])
    return float(means.mean()), float(low), float(high)


def table(rows: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """Markdown: averages with their intervals, then each stain's Pearson correlation and SSIM."""
    stains = [f"{stain} {metric}" for stain in targets for metric in ("PCC", "SSIM")]
    lines = [
        f"| method | steps | s/field | MSE | MAE | PCC | SSIM | {' | '.join(stains)} |",
        "|---" * (7 + len(stains)) + "|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = []
        for metric in METRICS:
            mean, low, high = interval(mine, metric)
            cells.append(f"{mean:.3f} ({low:.3f}–{high:.3f})")
        for stain in targets:
            of_stain = [row for row in mine if row["channel"] == stain]
            cells += [f"{interval(of_stain, metric)[0]:.3f}" for metric in ("pearson", "ssim")]
        steps, seconds = (np.mean([row[key] for row in mine]) for key in ("steps", "seconds"))
        lines.append(f"| {method} | {steps:.0f} | {seconds:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(data: Data, output: Path, names: Sequence[str], path: Path) -> None:
    """The first test field: the source, then each stain measured and as every method gives it."""
    place, seed = data.test[0], output / "seed_0"
    opened = open_plate(data.plates[0])[place]
    middle = opened.shape[2] // 2
    stacks = {"measured": (opened, data.targets)}
    for name in names:
        own = seed / name.replace(" ", "_").replace(",", "").replace("†", "_thresholds")
        stacks[name] = (open_plate(own / "stained_0.zarr")[place], [f"{target}_prediction" for target in data.targets])
    figure, axes = plt.subplots(
        len(data.targets), len(stacks), figsize=(1.7 * len(stacks), 1.8 * len(data.targets)), layout="constrained"
    )
    for row, target in zip(axes, data.targets, strict=True):
        for axis, (name, (position, channels)) in zip(row, stacks.items(), strict=True):
            channel = position.channel_index(channels[data.targets.index(target)])
            image = position.array()[0, channel, middle].read().result()
            low, high = np.percentile(image, (1, 99.5))
            axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axis.set(xticks=[], yticks=[])
            axis.set_title(name if target == data.targets[0] else "", fontsize=7)
        row[0].set_ylabel(target)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run what is missing, then write the table and the figure."""
    options = _options()
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    if options.plate:
        depth = open_plate(options.plate).first_position().shape[2]
        data = Data((options.plate,), tuple(options.test), options.source, tuple(options.targets), depth, 1)
    else:
        data = simulate(output, options.fovs, options.test_fovs)
    rows = [
        row
        for seed in range(options.seeds)
        for name in options.methods
        for row in run(data, output, name, seed, options.steps)
    ]
    with (output / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (output / "table.md").write_text(table(rows, data.targets) + "\n")
    plot(data, output, options.methods, output / "figure.png")
    print(table(rows, data.targets))
    print(f"figure: {output / 'figure.png'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for plates, runs, scores.csv, table.md and figure.png")
    add("--seeds", type=int, default=3, help="repetitions (%(default)s)")
    add("--steps", type=int, default=600, help="of training (%(default)s)")
    add("--fovs", type=int, default=10, help="simulated FOVs of each plate (%(default)s)")
    add("--test-fovs", type=int, default=2, help="of them, for the test (%(default)s)")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="rows (all)")
    add("--plate", help="a prepared plate in place of simulated ones; without classes")
    add("--source", default="Phase", help="its label-free channel (%(default)s)")
    add("--targets", nargs="+", help="its stains")
    add("--test", nargs="+", metavar="A/1/0", help="its FOVs for the test")
    return parser.parse_args()


if __name__ == "__main__":
    run_program("paper_diffstain", main)
