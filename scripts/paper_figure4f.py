"""Figure 4F of the UNeXt2 paper (Liu et al. 2025) in small: how many FOVs of a new cell type does staining need?

    python -m scripts.paper_figure4f --output runs/figure4f

Everything is simulated. A network learns round cells in two steps, as the paper's does (masked pre-training on images
without stains, then staining), and is fine-tuned with 2 FOVs of a new, large and spread cell type; others learn the
new type from scratch with 2, 4 and 16 FOVs, for as many steps. All are scored on the same four further FOVs. Each
seed draws its own FOVs and weights. Interrupted, the same command resumes. Writes scores.csv and figure.png.
"""

import argparse
import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

from configs.common import base_config, channel_role, small_data_augmentation
from vsjax.evaluation.comparison import evaluate
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.intensity.statistics import write_statistics
from vsjax.optics.cells import CellModel
from vsjax.plates.reader import open_plate
from vsjax.program import run_program
from vsjax.simulation import SimulationConfig, write_plate
from vsjax.training.loop import train

STAINS = ("nuclei", "membrane")
FOVS, TEST_FOVS = 16, 4
SHAPE = (5, 128, 128)
SPREAD = CellModel(
    radius_um=(9.0, 12.0), flatness=0.35, elongation=0.45, roughness=0.09, nucleus_size=(0.36, 0.46), coverage=0.5
)
NUMBER_OF_FOVS = (2, 4, 16)


@dataclass(frozen=True)
class Steps:
    """Training steps of masked pre-training, of staining pre-training, and with the new cell type."""

    masked: int
    staining: int
    new: int


@dataclass(frozen=True)
class Score:
    """Pearson correlation of one run with the test FOVs, by stain."""

    strategy: str
    fovs: int
    seed: int
    pearson: dict[str, float]


def make_plates(output: Path) -> dict[str, Path]:
    """The plates of the known and the new cell type; the last four FOVs of the new one are for the test."""
    plates = {}
    for name, model, count in (("known", CellModel(), FOVS), ("new", SPREAD, FOVS + TEST_FOVS)):
        plates[name] = output / f"{name}.zarr"
        if not (output / f"{name}.ready").exists():
            config = SimulationConfig(shape=SHAPE, seed=len(plates), channels=("BF", *STAINS), model=model)
            write_plate(str(plates[name]), config, count, overwrite=True)
            write_statistics(open_plate(plates[name]))
            (output / f"{name}.ready").touch()
    return plates


def experiment(plate: Path, seed: int, steps: int, task: str = "regression") -> ConfigDict:
    """A small network of VSCyto2D's family on all FOVs of `plate`."""
    config = base_config(
        "fcmae",
        task,
        dims=(40, 80, 160, 320),
        encoder_blocks=(2, 2, 6, 2),
        stem_kernel_size=(5, 4, 4),
        decoder_conv_blocks=2,
    )
    config.seed = seed
    config.data.update(plates=(str(plate),), patch=(5, 96, 96), val_fraction=0.0)
    config.roles.source = channel_role("BF")
    if task == "regression":
        config.roles.target = channel_role(*STAINS)  # not the IQR: of sparse nuclei it is the background's
        config.task.loss.scales = 4
    config.augment.update(small_data_augmentation(intensity_scale=0.2))
    # A constant rate as in the paper's data scaling; ten times shorter training than usual learns faster.
    config.optim.update(learning_rate=5e-4, schedule="constant", warmup_steps=min(20, steps - 1), average_decay=0.99)
    config.train.update(steps=steps, save_every=steps, validate_every=steps)
    return config


def pretrain(plate: Path, output: Path, seed: int, steps: Steps) -> Path:
    """The paper's two steps on the known cell type; returns the run to fine-tune."""
    masked = experiment(plate, seed, steps.masked, "masked_pretraining")
    masked.model.decoder_conv_blocks = 1
    train(masked, output / "masked")
    staining = experiment(plate, seed, steps.staining)
    staining.init.update(checkpoint=str(output / "masked"), load="encoder")
    train(staining, output / "staining")
    return output / "staining"


def learn_new_type(plate: Path, workdir: Path, seed: int, steps: Steps, fovs: int, begin: Path | None) -> None:
    """Train with `fovs` of the new cell type's FOVs, drawn by the seed, from scratch or from the run `begin`."""
    names = [position.name for position in open_plate(plate).positions()][:FOVS]
    config = experiment(plate, seed, steps.new)
    chosen = np.random.default_rng([seed, fovs]).permutation(FOVS)[:fovs]
    config.data.train_fovs = tuple(names[index] for index in sorted(chosen))
    if begin is not None:
        config.init.update(checkpoint=str(begin), load="all")
    train(config, workdir)


def score(plate: Path, workdir: Path) -> dict[str, float]:
    """Pearson correlation by stain, averaged over the test FOVs."""
    names = [position.name for position in open_plate(plate).positions()][FOVS:]
    stained = workdir / "stained.zarr"
    predict_plate(
        load(workdir), str(plate), str(stained), positions=names, settings=PredictionSettings(), overwrite=True
    )
    rows = evaluate(stained, plate, workdir / "report", overwrite=True).summary["pixel"]
    return {row["channel"]: float(row["pearson_mean"]) for row in rows}


def run_seed(plates: dict[str, Path], output: Path, seed: int, steps: Steps) -> list[Score]:
    """All strategies with one seed; what was scored before is read back."""
    folder = output / f"seed_{seed}"
    scores = []
    for strategy, fovs in [("fine-tuned", 2), *(("from scratch", number) for number in NUMBER_OF_FOVS)]:
        workdir = folder / f"{strategy.replace(' ', '_')}_{fovs}"
        result = workdir / "score.json"
        if not result.exists():
            begin = pretrain(plates["known"], folder, seed, steps) if strategy == "fine-tuned" else None
            learn_new_type(plates["new"], workdir, seed, steps, fovs, begin)
            result.write_text(json.dumps(score(plates["new"], workdir)))
        scores.append(Score(strategy, fovs, seed, json.loads(result.read_text())))
        logging.getLogger("vsjax").info("seed %d, %s on %d FOVs: %s", seed, strategy, fovs, scores[-1].pearson)
    return scores


def table(scores: Sequence[Score]) -> str:
    """Mean, and smallest to largest, over the seeds."""
    lines = [f"{'strategy':14} {'FOVs':>6} " + " ".join(f"{stain:>24}" for stain in STAINS)]
    for strategy, fovs in dict.fromkeys((s.strategy, s.fovs) for s in scores):
        cells = []
        for stain in STAINS:
            values = [s.pearson[stain] for s in scores if (s.strategy, s.fovs) == (strategy, fovs)]
            cells.append(f"{np.mean(values):8.3f} ({min(values):.3f}–{max(values):.3f})".rjust(24))
        lines.append(f"{strategy:14} {fovs:>6} " + " ".join(cells))
    return "\n".join(lines)


def plot(scores: Sequence[Score], path: Path) -> None:
    """A panel for each stain: every run a dot, the means joined."""
    figure, axes = plt.subplots(1, len(STAINS), figsize=(8, 3.4), layout="constrained", sharey=True)
    for axis, stain in zip(axes, STAINS, strict=True):
        for strategy, color in (("from scratch", "tab:blue"), ("fine-tuned", "tab:green")):
            chosen = [s for s in scores if s.strategy == strategy]
            numbers = sorted({s.fovs for s in chosen})
            means = [np.mean([s.pearson[stain] for s in chosen if s.fovs == n]) for n in numbers]
            axis.plot(numbers, means, color=color, marker="_", markersize=14, label=strategy)
            axis.scatter([s.fovs for s in chosen], [s.pearson[stain] for s in chosen], color=color, s=14, alpha=0.7)
        axis.set(xscale="log", xticks=NUMBER_OF_FOVS, xlabel="FOVs of the new cell type", title=stain)
        axis.set_xticks([], minor=True)
        axis.set_xticklabels([str(number) for number in NUMBER_OF_FOVS])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Pearson correlation, test FOVs")
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run what is missing, then write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for plates, runs, scores.csv and figure.png")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (%(default)s)")
    parser.add_argument("--masked-steps", type=int, default=400, help="masked pre-training (%(default)s)")
    parser.add_argument("--staining-steps", type=int, default=400, help="staining pre-training (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="with the new cell type (%(default)s)")
    options = parser.parse_args()
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    plates = make_plates(output)
    steps = Steps(options.masked_steps, options.staining_steps, options.steps)
    scores = [score for seed in range(options.seeds) for score in run_seed(plates, output, seed, steps)]
    with (output / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["strategy", "fovs", "seed", *STAINS])
        writer.writerows([s.strategy, s.fovs, s.seed, *(s.pearson[stain] for stain in STAINS)] for s in scores)
    plot(scores, output / "figure.png")
    print(table(scores))
    print(f"figure: {output / 'figure.png'}")


if __name__ == "__main__":
    run_program("paper_figure4f", main)
