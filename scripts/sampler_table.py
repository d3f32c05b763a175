"""Samplers of one diffusion: how long they draw, and how near they come to what was measured.

    python -m scripts.sampler_table --checkpoint runs/palette --input P.zarr --positions A/1/0 A/1/1 --start runs/unext2
    python -m scripts.sampler_table --checkpoint runs/palette --input P.zarr --sweep --features runs/fcmae

Each row draws the same fields with the same seed, after one that warms up. `--sweep` varies the share s of the process
at which masks are renoised (DiffStain leaves it open), and with `--figure` draws it. The middle slices are compared.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from vsjax.inference.prediction_step import PredictionStep
from vsjax.inference.predictor import Predictor, load
from vsjax.inference.settings import PredictionSettings, change_sampler
from vsjax.plates.position import Position
from vsjax.plates.reader import open_plate
from vsjax.plates.step import ImageInfo, Job
from vsjax.program import run_program

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"method": "ddpm", "steps": 1000},
    {"method": "ddpm", "steps": 100},
    {"method": "ddim", "steps": 50},
    {"method": "ddim", "steps": 20},
    {"method": "dpm++", "steps": 50},
    {"method": "dpm++", "steps": 20},
    {"method": "dpm++", "steps": 20, "spacing": "time"},
    {"method": "dpm++", "steps": 10},
)
STARTS: tuple[dict[str, Any], ...] = (
    {"method": "dpm++", "steps": 10, "start_at": 0.2},
    {"method": "dpm++", "steps": 5, "start_at": 0.1},
)


def draw(predictor: Predictor, position: Position, change: Mapping[str, Any], seed: int) -> tuple[np.ndarray, float]:
    """The middle slice `[C, Y, X]` of a field's first time point, in the stains' normalised units, and seconds."""
    settings = PredictionSettings(sampler=change_sampler(predictor.sampler, change), seed=seed)
    step = PredictionStep(predictor, settings)
    derived = step.derive(ImageInfo.of(position))
    stack = position.array()[0].read().result()[list(derived.reads)]
    job = Job(progress=lambda _: None, resolved=lambda _, choose: choose())
    start = time.perf_counter()
    pixels = derived.compute(stack, 0, job).pixels
    return pixels[:, pixels.shape[1] // 2], time.perf_counter() - start


def score(predictor: Predictor, positions: Sequence[Position], change: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Mean Pearson correlation and deviation (of the stain's) over fields and stains, and the median of the seconds."""
    draw(predictor, positions[0], change, seed)
    correlations, ratios, seconds = [], [], []
    for position in positions:
        drawn, taken = draw(predictor, position, change, seed)
        seconds.append(taken)
        for channel, image in zip(predictor.target_channels, drawn, strict=True):
            stain = position.array()[0, position.channel_index(channel), position.shape[2] // 2].read().result()
            scale = predictor.target_scale[predictor.target_channels.index(channel)]
            correlations.append(np.corrcoef(image.ravel(), stain.ravel())[0, 1])
            ratios.append(image.std() / (stain.std() / scale))
    numbers = {"pearson": np.mean(correlations), "deviation": np.mean(ratios), "seconds": np.median(seconds)}
    return {"sampler": dict(change), **{name: float(value) for name, value in numbers.items()}}


def main() -> None:
    """Measure, print a table, and write what is asked for."""
    options = _options()
    plate = open_plate(options.input)
    names = options.positions or [position.name for position in plate.positions()]
    positions = [plate[name] for name in names]
    plain = load(options.checkpoint, features=options.features)
    rows = []
    if options.sweep:
        for masks in ("threshold", "nsc"):
            rows += [score(plain, positions, {"masks": masks, "mask_at": s}, options.seed) for s in SHARES]
        rows.append(score(plain, positions, {}, options.seed))
    else:
        rows += [score(plain, positions, change, options.seed) for change in SAMPLERS]
    if options.start and not options.sweep:
        started = load(options.checkpoint, start=options.start)
        rows += [score(started, positions, change, options.seed) for change in STARTS]
        rows.append({**score(load(options.start), positions, {}, options.seed), "sampler": {"regression": "alone"}})
    print("| sampler | Pearson | deviation | s per field |\n|---|---|---|---|")
    for row in rows:
        said = ", ".join(f"{name} {value}" for name, value in row["sampler"].items()) or "no masks"
        print(f"| {said} | {row['pearson']:.4f} | {row['deviation']:.2f} | {row['seconds']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.figure:
        plot(rows, options.figure)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Pearson correlation over s, by kind of mask; without masks a line."""
    figure, axis = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for masks in ("threshold", "nsc"):
        chosen = [row for row in rows if row["sampler"].get("masks") == masks]
        shares = [row["sampler"]["mask_at"] for row in chosen]
        axis.plot(shares, [row["pearson"] for row in chosen], marker="o", label=f"masks={masks}")
    for row in rows:
        if not row["sampler"]:
            axis.axhline(row["pearson"], color="gray", linestyle="--", label="no masks")
    axis.set(xlabel="share s of the process at which masks are renoised", ylabel="Pearson correlation")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, help="a run of a diffusion")
    add("--input", required=True, help="plate with the source and the stains")
    add("--positions", nargs="+", metavar="A/1/0", help="fields (all)")
    add("--start", metavar="RUN", help="a regression that is started from")
    add("--features", metavar="RUN", help="an encoder that finds structures")
    add("--sweep", action="store_true", help="masks at every s, in place of samplers")
    add("--seed", type=int, default=0, help="of the noise (%(default)s)")
    add("--json", type=Path, help="everything, as a file")
    add("--figure", type=Path, help="of the sweep, PNG")
    return parser.parse_args()


if __name__ == "__main__":
    run_program("sampler_table", main)
