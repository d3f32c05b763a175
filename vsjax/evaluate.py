"""How good is a prediction? `python -m vsjax.evaluate --prediction S.zarr --target P.zarr --output report/`.

Compares two plates position by position and channel by channel (`nuclei_prediction` with `nuclei`) and writes to the
output directory `metrics.csv` (a row per position, time point and channel), `summary.csv` (mean and sd per channel),
`metrics.json` (both, with the definition of every metric; it is written last, so where it is, the report is complete),
`metrics.png` and `panels_CHANNEL.png`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vsjax.errors import UserError
from vsjax.evaluation import figures, pixel, report
from vsjax.evaluation.level import Level
from vsjax.evaluation.pairing import CHOICES, UNITS, Job, pair_plates, source_channel
from vsjax.plates.arrays import read
from vsjax.plates.reader import open_plate
from vsjax.program import run_program
from vsjax.version import __version__

LEVELS: dict[str, Level] = {"pixel": pixel}
METRICS = {name: metric for level in LEVELS.values() for name, metric in level.METRICS.items()}
RANKED_BY = "pearson"  # what best, median and worst mean in the panels


def evaluate(
    prediction: str | Path,
    target: str | Path,
    output: str | Path,
    *,
    channels: Sequence[str] | None = None,
    positions: Sequence[str] | None = None,
    source: str | None = None,
    units: str = "auto",
    overwrite: bool = False,
) -> list[report.Row]:
    """Compare two plates and write the report; one channel of one position and time point is in memory at a time.

    Args:
        prediction: plate that `vsjax.predict` or other software wrote.
        target: plate with the measured channels, normally the one that was predicted from.
        output: directory for the report.
        channels: the target's names; all that were predicted if `None`.
        positions: names; all of the prediction if `None`.
        source: channel of the target plate to show beside them; the one that was predicted from if `None`.
        units: in which to compare, one of `pairing.CHOICES`.
        overwrite: replace the files of an earlier report; other files in `output` are left alone.

    Returns:
        The summary: `report.summarize`.

    Raises:
        UserError: nothing to compare, a prediction unfinished, or an output that exists.
    """
    output = Path(output)
    plates = open_plate(prediction), open_plate(target)
    jobs = pair_plates(*plates, channels=channels, positions=positions, units=units)
    source = source or source_channel(jobs)
    for job in jobs:
        job.target.channel_index(source)  # its error lists those that exist
    _make_output(output, overwrite)
    with tqdm(jobs, desc="evaluate", unit="stack") as progress:  # closed before an error is printed
        rows = [_measure(job) for job in progress]
    (output / "metrics.json").unlink(missing_ok=True)  # from here to its end the report is incomplete
    figures.plot_metrics(output / "metrics.png", rows, METRICS)
    for channel, name in _panel_names(jobs).items():
        _plot_panels(output / name, channel, source, jobs, rows)
    about = {"vsjax_version": __version__, "prediction": str(prediction), "target": str(target), "units": UNITS}
    report.write_tables(output, rows, METRICS, about)
    return report.summarize(rows, METRICS)


def _measure(job: Job) -> report.Row:
    pair = job.read()
    row: report.Row = {"position": pair.position, "time": pair.time, "channel": pair.channel, "units": pair.units}
    notes = []
    for level in LEVELS.values():
        values, remarks = level.measure(pair)
        row |= values
        notes += remarks
    return row | {"note": "; ".join(notes)}


def _plot_panels(path: Path, channel: str, source: str, jobs: Sequence[Job], rows: Sequence[report.Row]) -> None:
    """Best, median and worst stack of a channel; reads these again rather than keep them all."""
    members = [(row, job) for row, job in zip(rows, jobs, strict=True) if row["channel"] == channel]
    members.sort(key=lambda member: np.nan_to_num(member[0][RANKED_BY], nan=-np.inf), reverse=True)
    ranks = {"best": 0, "median": len(members) // 2, "worst": len(members) - 1}
    chosen = {index: rank for rank, index in reversed(ranks.items())} if len(members) > 1 else {0: "only"}
    panels = [_panel(members[index][1], source, rank, members[index][0]) for index, rank in sorted(chosen.items())]
    caption = (
        "target and prediction share one contrast, the target's 1st to 99.8th percentile · "
        "shown where the target has most contrast"
    )
    figures.plot_panels(path, channel, source, panels, caption)


def _panel(job: Job, source: str, rank: str, row: report.Row) -> figures.Panel:
    pair = job.read()
    z = figures.slice_to_show(pair.target)
    view = figures.view_to_show(pair.target[z])
    array = job.target.array()[job.time, job.target.channel_index(source), z]
    where = [f"{rank}: {pair.position}"]
    where += [f"t {pair.time}"] if job.target.shape[0] > 1 else []
    where += [f"z {z}"] if job.target.shape[2] > 1 else []
    return figures.Panel(
        label=f"{' · '.join(where)}\n{METRICS[RANKED_BY].label} {row[RANKED_BY]:.3f}",
        source=np.asarray(read(array.read(), job.target.url), dtype=np.float32),
        target=pair.target[z].copy(),  # a view would keep the whole stack in memory
        prediction=pair.prediction[z].copy(),
        pixel_size_um=tuple(pair.pixel_size_um[1:]),
        view=view,
    )


def _panel_names(jobs: Sequence[Job]) -> dict[str, str]:
    """File name per channel; what a file system may not take becomes `_`, and no two are alike."""
    names: dict[str, str] = {}
    for channel in dict.fromkeys(job.channel for job in jobs):
        name = "panels_" + re.sub(r"[^\w.-]+", "_", channel)
        while name in names.values():
            name += "_"
        names[channel] = name
    return {channel: f"{name}.png" for channel, name in names.items()}


def _make_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a directory")
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output {output}: exists and is not empty; name another directory or add --overwrite")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be made ({error.strerror}); name another directory") from error


def main() -> None:
    """Read the command line, evaluate, and print the summary."""
    parser = argparse.ArgumentParser(prog="python -m vsjax.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--prediction", required=True, help="plate with the predicted channels")
    parser.add_argument("--target", required=True, help="plate with the measured channels")
    parser.add_argument("--output", required=True, help="directory for the report")
    parser.add_argument("--channels", nargs="+", help="the target's channel names; default: all that were predicted")
    parser.add_argument("--positions", nargs="+", help="such as A/1/0; default: all of the prediction")
    parser.add_argument("--source", help="channel to show beside them; default: the one that was predicted from")
    parser.add_argument("--units", choices=CHOICES, default="auto",
                        help="; ".join(f"{name}: {meaning}" for name, meaning in UNITS.items()))  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier report")
    arguments = vars(parser.parse_args())
    summary = evaluate(**arguments)
    print(report.format_summary(summary, METRICS))
    for units in dict.fromkeys(entry["units"] for entry in summary):
        print(f"units {units}: {UNITS[units]}")
    if noted := sum(entry["noted"] for entry in summary):
        print(f"{noted} stacks carry a note, such as a constant target: see the column `note` of metrics.csv")
    print(f"report: {arguments['output']}")


if __name__ == "__main__":
    run_program("evaluate", main)
