"""What a benchmark says: flags, rows in words, JSON, and lines of the table in `docs/speed.md`."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarking import measure

HEADER = "| work | vsjax | VisCy | ratio | memory vsjax / VisCy | floor |\n|---|---|---|---|---|---|"
GIB = 2**30


def add_flags(parser: argparse.ArgumentParser, rows: Iterable[str], default: Sequence[str]) -> None:
    """The flags that every benchmark has."""
    add = parser.add_argument
    add("--rows", nargs="+", choices=list(rows), default=list(default), metavar="ROW", help="%(choices)s (%(default)s)")
    add("--against", choices=["viscy"], help="measure VisCy in the same call, in turns")
    add("--peer-python", default=os.environ.get("VSJAX_PEER_PYTHON"), help="Python with PyTorch and VisCy")
    add("--compiled", action="store_true", help="torch.compile on the other side, which is eager by default")
    add("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"], help="%(default)s")
    add("--rounds", type=int, default=3, help="turns of each side (%(default)s)")
    add("--warmup", type=int, default=1, help="calls before those that count, in each turn (%(default)s)")
    add("--repeats", type=int, default=3, help="calls that count, in each turn (%(default)s)")
    add("--seed", type=int, default=0, help="of the inputs (%(default)s)")
    add("--mode", choices=["", "debug"], default="", help="debug: the small form of each config")
    add("--json", type=Path, metavar="FILE", help="write all that was measured")
    add("--markdown", action="store_true", help="print lines of the table in docs/speed.md at the end")


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags; an error where the other side is wanted and its Python is not known."""
    options = parser.parse_args(arguments)
    if options.against and not options.peer_python:
        parser.error("--against viscy needs --peer-python PYTHON, or VSJAX_PEER_PYTHON")
    return options


def row(name: str, work: str, sides: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> dict[str, Any]:
    """One row: both sides (the other one may be missing), ratios theirs / ours, and the floor.

    Args:
        name: of the row.
        work: in words.
        sides: what `rounds.compare` gives; the first is ours.
        rates: the machine's (`best_rates`).
    """
    ours, theirs = sides[0], sides[1] if len(sides) > 1 else None
    found: dict[str, Any] = {"row": name, "work": work, "ours": ours, "theirs": theirs}
    if theirs is not None:
        found["ratio"] = theirs["seconds"]["median"] / ours["seconds"]["median"]
        turns = zip(ours["rounds"], theirs["rounds"], strict=True)
        found["ratio_of_rounds"] = [measure.spread(b)["median"] / measure.spread(a)["median"] for a, b in turns]
        found["memory_ratio"] = memory(theirs) / memory(ours)
        found["same_parameters"] = theirs.get("parameters") == ours.get("parameters")
    if "work" in ours and rates:
        found["floor"] = floor(ours["work"], rates, ours["dtype"])
        found["share_of_floor"] = found["floor"]["floor"] / ours["seconds"]["median"]
        found["multiply_adds_per_second"] = ours["work"]["multiply_adds"] / ours["seconds"]["median"]
    return found


def memory(side: Mapping[str, Any]) -> int:
    """The peak of a side: of its device's memory, or of the process where the device has none of its own."""
    return side.get("device_peak") or side["memory"]["peak"]


def best_rates(sides: Sequence[Mapping[str, Any]], on_host: bool) -> dict[str, float]:
    """The machine's rates: the best that any library has shown in this run; bandwidth by NumPy too on the host."""
    shown = [side["rates"] for side in sides if "rates" in side]
    shown += [{"copy": measure.copy_rate()}] if on_host and shown else []
    return {name: max(rates[name] for rates in shown if name in rates) for rates in shown for name in rates}


def floor(work: Mapping[str, int], rates: Mapping[str, float], dtype: str) -> dict[str, float]:
    """Seconds that the products take at the matrix rate of `dtype`; those that their operands and results take at the
    bandwidth, if everything between two products is fused into them; and the larger of the two."""
    products, moved = work["multiply_adds"] / rates[dtype], work["bytes"] / rates["copy"]
    return {"products": products, "bytes": moved, "floor": max(products, moved)}


def show(found: Mapping[str, Any]) -> None:
    """Print a row in words, the ratio last."""
    print(f"\n{found['row']}: {found['work']}")
    for name in ("ours", "theirs"):
        if found[name] is not None:
            print(f"  {'vsjax' if name == 'ours' else 'VisCy':6s} {_side(found[name])}")
    if "floor" in found:
        parts, rate = found["floor"], found["multiply_adds_per_second"]
        print(
            f"  floor  {parts['floor']:.3f} s (products {parts['products']:.3f}, bytes {parts['bytes']:.3f}), "
            f"{found['share_of_floor']:.0%} of vsjax's time; {rate / 1e9:.0f} G multiply-adds/s"
        )
    if "over_bare" in found:
        print(f"  vsjax over its own bare forward pass: {found['over_bare']:+.0%}")
    if found.get("agreement"):
        how = found["agreement"]
        spread = how["standard_deviation"]
        print(f"  largest difference {how['largest_difference']:.1e} at a standard deviation of {spread:.2g}, ", end="")
        print(f"correlation {how['correlation']:.6f}")
    if found.get("same_parameters") is False:
        print("  the two sides have different numbers of parameters")
    if "ratio" in found:
        turns = ", ".join(f"{ratio:.2f}" for ratio in found["ratio_of_rounds"])
        print(f"  memory VisCy / vsjax {found['memory_ratio']:.2f}")
        print(f"  ratio VisCy / vsjax {found['ratio']:.2f} (turns: {turns})", flush=True)


def _side(side: Mapping[str, Any]) -> str:
    time, held = side["seconds"], side["memory"]
    text = f"{time['median']:.3f} s ({time['p10']:.3f} to {time['p90']:.3f}, n={time['count']})"
    text += f"; peak {memory(side) / GIB:.2f} GiB, in the rounds {held['peak_rounds'] / GIB:.2f}"
    text += f", resident {held['before'] / GIB:.2f} before and {held['after'] / GIB:.2f} after"
    for name in ("compile_seconds", "first_seconds", "samples_per_second", "bare_seconds"):
        if side.get(name) is not None:
            text += f"; {name.replace('_', ' ')} {side[name]:.2f}"
    return text


def markdown(found: Mapping[str, Any]) -> str:
    """A line of the table."""
    ours, theirs = found["ours"], found["theirs"]
    memories = [f"{memory(side) / GIB:.2f}" for side in (ours, theirs) if side]
    cells = [
        found["work"],
        _cell(ours),
        _cell(theirs) if theirs else "–",
        f"{found['ratio']:.2f}" if theirs else "–",
        " / ".join(memories) + " GiB",
        f"{found['floor']['floor']:.3g} s" if "floor" in found else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(side: Mapping[str, Any]) -> str:
    if "samples_per_second" in side:
        return f"{side['samples_per_second']:.3g} samples/s"
    return f"{side['seconds']['median']:.3g} s"


def write(options: argparse.Namespace, benchmark: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table's lines and the JSON, as the flags ask for."""
    if options.markdown:
        print("\n" + "\n".join([HEADER, *map(markdown, rows)]))
    if options.json:
        document = {"benchmark": benchmark, "machine": measure.machine(), "rows": list(rows)}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
