"""Tables of any level's metrics: rows, their summary per channel, CSV, JSON and readable text.

A row is a dictionary with the identity of a pair (`position`, `time`, `channel`, `units`), one number per metric and
`note`. Numbers may be NaN or infinite; the summary is over the finite ones and says how many these are.
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vsjax.evaluation.level import Metric

Row = dict[str, Any]


def summarize(rows: Sequence[Row], metrics: Mapping[str, Metric]) -> list[Row]:
    """One row per channel (and units, where these differ between positions).

    Returns:
        Rows with `channel`, `units`, `stacks`, `noted` (how many of these carry a note) and per metric `NAME_mean`,
        `NAME_sd` (of a sample: n - 1; NaN for one value) and `NAME_n`, the number of finite values.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["channel"], row["units"]), []).append(row)
    summary = []
    for (channel, units), members in groups.items():
        entry: Row = {"channel": channel, "units": units, "stacks": len(members)}
        entry["noted"] = sum(bool(row["note"]) for row in members)
        for name in metrics:
            values = np.array([row[name] for row in members], dtype=np.float64)
            values = values[np.isfinite(values)]
            entry[f"{name}_mean"] = float(values.mean()) if len(values) else math.nan
            entry[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            entry[f"{name}_n"] = len(values)
        summary.append(entry)
    return summary


def write_tables(output: Path, rows: Sequence[Row], metrics: Mapping[str, Metric], about: Mapping[str, Any]) -> None:
    """Write `metrics.csv` (the rows), `summary.csv` and last `metrics.json`: both, `about` and definitions."""
    summary = summarize(rows, metrics)
    _write_csv(output / "metrics.csv", rows)
    _write_csv(output / "summary.csv", summary)
    definitions = {name: metric.definition for name, metric in metrics.items()}
    content = {**about, "metrics": definitions, "summary": summary, "rows": list(rows)}
    with replacing(output / "metrics.json") as path:
        path.write_text(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def format_summary(summary: Sequence[Row], metrics: Mapping[str, Metric]) -> str:
    """The summary as a table of `mean ± sd` for the terminal; a metric that some stacks lack shows how many had it."""
    header = ["channel", "stacks", *(metric.label for metric in metrics.values()), "units"]
    lines = [header]
    for entry in summary:
        cells = [_cell(entry, name) for name in metrics]
        lines.append([entry["channel"], str(entry["stacks"]), *cells, entry["units"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to; it takes the name `path` only once it is complete."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _cell(entry: Row, name: str) -> str:
    mean, sd, count = (entry[f"{name}_{part}"] for part in ("mean", "sd", "n"))
    if not count:
        return "-"
    digits = max(0, 3 - math.floor(math.log10(abs(mean)) + 1)) if abs(mean) >= 10 else 3
    text = f"{mean:.{digits}f}" if 1e-3 <= abs(mean) < 1e5 or mean == 0 else f"{mean:.3g}"
    if math.isfinite(sd):
        text += f" ± {sd:.{digits}f}" if 1e-3 <= abs(mean) < 1e5 or mean == 0 else f" ± {sd:.2g}"
    return text + (f" (n={count})" if count < entry["stacks"] else "")


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null, infinity a string."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
