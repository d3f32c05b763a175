"""Tables of any level's metrics: rows, their summary per channel, CSV, JSON and readable text.

Each level has tables of its own, `LEVEL.csv` (a row per pair), `LEVEL_summary.csv` and, where it looks at objects,
`LEVEL_objects.csv`. They meet in `metrics.json`, where a metric is called `LEVEL/METRIC`. Numbers may be NaN or
infinite; a summary is over the finite ones and says how many these are.
"""

import csv
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from vsjax.disk import has_file
from vsjax.errors import UserError, shorten
from vsjax.evaluation.level import Level, Measurement, Metric, Row, plain_number
from vsjax.evaluation.pairing import Job
from vsjax.evaluation.units import UNITS
from vsjax.plates.parts import FOLDER
from vsjax.schema import Document, parse, parse_object, to_json

DOCUMENT = "metrics.json"
SHOWN = 50  # rows of a summary in the terminal
_WHICH_OBJECT = ("position", "time", "channel")


def collect(
    output: Path, levels: Sequence[Level], jobs: Sequence[Job], found: Iterable[Mapping[str, Measurement]]
) -> dict[str, list[Row]]:
    """The rows of every level, one per job; the objects, which may be millions, go straight to their tables.

    Args:
        output: folder of the report.
        levels: those that measured.
        jobs: what they measured.
        found: for each job, by the level's name, what was measured.
    """
    rows: dict[str, list[Row]] = {level.name: [] for level in levels}
    with ExitStack() as stack:
        tables = {
            level.name: stack.enter_context(_table(objects_table(output, level), [*_WHICH_OBJECT, *level.objects]))
            for level in levels
            if level.objects
        }
        for job, by_level in zip(jobs, found, strict=True):
            which = {"position": job.target.name, "time": job.time, "channel": job.channel}
            for level in levels:
                measurement = by_level[level.name]
                values = {name: measurement.values[name] for name in level.metrics}
                note = "; ".join(measurement.notes)
                rows[level.name].append({**which, "units": job.units, **values, "note": note})
                for thing in measurement.objects:
                    tables[level.name].writerow({**which, **thing})
    return rows


def objects_table(output: Path, level: Level) -> Path:
    """Where a level's objects are."""
    return output / f"{level.name}_objects.csv"


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


def write_tables(
    output: Path,
    levels: Sequence[Level],
    rows: Mapping[str, Sequence[Row]],
    summaries: Mapping[str, Sequence[Row]],
    about: Mapping[str, Any],
) -> None:
    """Write `LEVEL.csv` and `LEVEL_summary.csv`, and last `metrics.json`: all of them, `about` and definitions.

    Args:
        output: folder of the report.
        levels: those that measured.
        rows, summaries: by the level's name.
        about: what the evaluation is.
    """
    for level in levels:
        _write_csv(output / f"{level.name}.csv", rows[level.name])
        _write_csv(output / f"{level.name}_summary.csv", summaries[level.name])
    content = {
        "about": about,
        "units": UNITS,
        "metrics": {f"{level.name}/{name}": vars(metric) for level in levels for name, metric in level.metrics.items()},
        "summary": summaries,
        "rows": [_merged(levels, by_level) for by_level in zip(*(rows[level.name] for level in levels), strict=True)],
        "objects": {
            level.name: {
                "table": objects_table(output, level).name,
                "columns": {name: vars(column) for name, column in level.objects.items()},
            }
            for level in levels
            if level.objects
        },
    }
    with replacing(output / DOCUMENT) as path:
        path.write_bytes(to_json(_plain(content), indent=1))


def check_replaceable(output: Path, levels: Sequence[Level]) -> None:
    """UserError where a file that a report of these levels would replace is none of an earlier report's."""
    if (output / FOLDER / "evaluation").is_dir():  # it was stopped while it was written
        return
    written = _levels_of_report(output)
    files = [output / DOCUMENT]
    for level in levels:
        tables = [output / f"{level.name}{kind}.csv" for kind in ("", "_summary", "_objects")]
        files += [] if level.name in (written or ()) else [*tables, *output.glob(f"{level.name}*.png")]
    for path in files if written is None else files[1:]:
        if os.path.lexists(path):
            raise UserError(f"--output {output}: {path.name} is of no report of vsjax; name another directory")


def _levels_of_report(output: Path) -> set[str] | None:
    """The levels whose files are in a folder with a complete report; None where there is none."""
    try:
        if not has_file(output / DOCUMENT):
            return None
        about = parse_object((output / DOCUMENT).read_bytes(), str(output / DOCUMENT), "").get("about")
        return set(parse(_About, about, str(output / DOCUMENT), "").levels)
    except (OSError, UserError):  # another program's
        return None


class _About(Document):
    """What tells a report of vsjax from another program's `metrics.json`."""

    model_config = pydantic.ConfigDict(extra="ignore")

    vsjax_version: str
    prediction: str
    target: str
    levels: dict[str, Any]


def is_complete(output: Path, about: Mapping[str, Any]) -> bool:
    """Whether the folder holds the complete report of this evaluation."""
    path = output / DOCUMENT
    try:
        return path.is_file() and parse_object(path.read_bytes(), str(path), "remove it").get("about") == about
    except (OSError, UserError):  # it cannot be read, or is another program's
        return False


def format_summary(summary: Sequence[Row], metrics: Mapping[str, Metric]) -> str:
    """The summary as a table of `mean ± sd` for the terminal; a metric that some stacks lack shows how many had it. Of
    many channels the first are shown."""
    header = ["channel", "stacks", *(metric.label for metric in metrics.values()), "units"]
    lines = [header]
    for entry in summary[:SHOWN]:
        cells = [_cell(entry, name) for name in metrics]
        lines.append([shorten(entry["channel"], 40), str(entry["stacks"]), *cells, entry["units"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    text += [f"... and {len(summary) - SHOWN} more, in {DOCUMENT}"] if len(summary) > SHOWN else []
    return "\n".join(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to; it takes the name `path` only once it is complete."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
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


def _merged(levels: Sequence[Level], by_level: Sequence[Row]) -> Row:
    """One pair's rows of all levels as one, names and notes led by the level's name."""
    first = by_level[0]
    row = {name: first[name] for name in ("position", "time", "channel", "units")}
    notes = []
    for level, values in zip(levels, by_level, strict=True):
        row |= {f"{level.name}/{name}": values[name] for name in level.metrics}
        notes += [f"{level.name}: {values['note']}"] if values["note"] else []
    return row | {"note": "; ".join(notes)}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with _table(path, list(rows[0])) as table:
        table.writerows(rows)


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[csv.DictWriter]:
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.DictWriter(file, fieldnames=columns)
        table.writeheader()
        yield table


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null, infinity text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return plain_number(value)
