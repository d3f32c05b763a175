"""The best, the median and the worst stack of each channel, as pictures."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vsjax.evaluation import figures
from vsjax.evaluation.level import Metric, Results, Row
from vsjax.evaluation.pairing import Job
from vsjax.plates.arrays import read

CAPTION = (
    "target and prediction share one contrast, the target's 1st to 99.8th percentile · "
    "shown where the target has most contrast"
)


def draw_panels(output: Path, prefix: str, results: Results, ranked_by: str, metric: Metric) -> None:
    """Write `PREFIX_CHANNEL.png` for each channel: best, median and worst stack by the metric named `ranked_by`; of
    many channels the first, a picture each takes a second.

    Reads these stacks again rather than keep them all.
    """
    members_of: dict[str, list[tuple[Row, Job]]] = {}
    for row, job in zip(results.rows, results.jobs, strict=True):
        members_of.setdefault(job.channel, []).append((row, job))
    names = _file_names(prefix, list(members_of)[: figures.MAX_CHANNELS])
    for channel, name in names.items():
        members = members_of[channel]
        panels = [
            _panel(job, results.source, f"{rank}: {job.target.name}", f"{metric.label} {row[ranked_by]:.3f}")
            for rank, (row, job) in _ranked(members, ranked_by, metric)
        ]
        figures.plot_panels(output / name, channel, results.source, panels, CAPTION)


def _ranked(members: Sequence[tuple[Row, Job]], name: str, metric: Metric) -> list[tuple[str, tuple[Row, Job]]]:
    """Best, median and worst, each once; where the metric is undefined a stack is worst."""
    sign = -1 if metric.better == "higher" else 1
    ordered = sorted(members, key=lambda member: np.nan_to_num(sign * member[0][name], nan=np.inf))
    ranks = {"best": 0, "median": len(ordered) // 2, "worst": len(ordered) - 1}
    chosen = {index: rank for rank, index in reversed(ranks.items())} if len(ordered) > 1 else {0: "only"}
    return [(rank, ordered[index]) for index, rank in sorted(chosen.items())]


def _panel(job: Job, source: str, title: str, score: str) -> figures.Panel:
    pair = job.read()
    z = figures.slice_to_show(pair.target)
    view = figures.view_to_show(pair.target[z])
    array = job.target.array()[job.time, job.target.channel_index(source), z]
    where = [title]
    where += [f"t {pair.time}"] if job.target.shape[0] > 1 else []
    where += [f"z {z}"] if job.target.shape[2] > 1 else []
    return figures.Panel(
        label=f"{' · '.join(where)}\n{score}",
        source=np.asarray(read(array.read(), job.target.url), dtype=np.float32),
        target=pair.target[z].copy(),  # a view would keep the whole stack in memory
        prediction=pair.prediction[z].copy(),
        pixel_size_um=tuple(pair.pixel_size_um[1:]),
        view=view,
    )


def _file_names(prefix: str, channels: Sequence[str]) -> dict[str, str]:
    """File name per channel; what a file system may not take becomes `_`, and no two are alike."""
    names: dict[str, str] = {}
    for channel in dict.fromkeys(channels):
        name = f"{prefix}_" + re.sub(r"[^\w.-]+", "_", channel)[:40]
        while name in names.values():
            name += "_"
        names[channel] = name
    return {channel: f"{name}.png" for channel, name in names.items()}
