"""The table at the end."""

from collections.abc import Sequence
from typing import Any

from scripts.fuzzing.verdict import FAULTS

HEADS = {
    "traceback": "tracebacks",
    "hang": "hangs",
    "memory": "over 1 GiB",
    "crash": "crashes",
    "changed": "inputs changed",
    "wrongly": "accepted wrongly",
    "lines": "not one line",
}


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line per category and one for all: counts of cases, of how they ended, and of each kind of fault."""
    heads = ["category", "cases", "refused", "accepted", *HEADS.values(), "clear lines"]
    categories = list(dict.fromkeys(result["category"] for result in results))
    rows = [_row(name, [result for result in results if result["category"] == name]) for name in categories]
    rows.append(_row("all", results))
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if column == 0 else f"{cell:>{w}}"
            for column, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    refused = [result for result in results if result["line"] and not result["faults"]]
    lines = [result for result in results if result["line"]]
    clear = sum(result["clear"] for result in lines)
    faults = [sum(kind in result["faults"] for result in results) for kind in FAULTS]
    counts = [len(results), len(refused), sum(result["accepted"] for result in results), *faults]
    return [name, *map(str, counts), f"{clear}/{len(lines)}"]
