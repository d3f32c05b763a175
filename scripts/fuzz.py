"""Does anything that is wrong with a file, a flag or a config pass unseen, or end in anything but one line?

    python scripts/fuzz.py [CATEGORY...] --jobs 2

A case takes sound inputs, changes one thing of them, and runs a program on them in a child with limits on time and
memory. The changes follow from the documents' classes, the programs' parsers and the files themselves, and from the
seed: a new schema, task, network or step is found by itself. `--only chunks:17` shows one case. What counts as a fault:
a traceback, more than 20 s, more than 1 GiB above a program that has just been imported, the end by a signal, more or
less than one error line, anything changed outside the output, and what was accepted although it gives another result
than it should (`scripts/fuzzing/oracles.py`). Exit status 1 if there is one."""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # no threads before a fork
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.fuzzing import world  # noqa: E402
from scripts.fuzzing.commands import COMMANDS  # noqa: E402
from scripts.fuzzing.facts import gather  # noqa: E402
from scripts.fuzzing.harness import CATEGORIES, Case, describe, run_all, run_case, spread  # noqa: E402
from scripts.fuzzing.programs import warm  # noqa: E402
from scripts.fuzzing.run import clear  # noqa: E402
from scripts.fuzzing.table import table  # noqa: E402


def main() -> None:
    """Run the cases and print the table."""
    options = _parser().parse_args()
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
    work = Path(
        options.work or tempfile.mkdtemp(prefix="vsjax-fuzz-")
    ).absolute()  # no TemporaryDirectory: every child that ends would remove it
    try:
        results = _run(options, work)
    finally:
        if not options.work:
            clear(work)
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=1))
    sys.exit(1 if any(line["faults"] for line in results) else 0)


def _run(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Everything, in a folder of its own."""
    world.set_environment(work)
    warm()
    start = time.monotonic()
    gather(work)
    print(f"sound inputs made in {time.monotonic() - start:.0f} s", flush=True)
    if options.only:
        return [_show(options.only, options.seed, work)]
    start = time.monotonic()
    cases = spread(options.categories or list(CATEGORIES), options.cases, options.seed)
    results = run_all(cases, work, options.jobs)
    print(f"\n{len(cases)} cases, seed {options.seed}, in {(time.monotonic() - start) / 60:.1f} minutes\n")
    print(table(results))
    print("\nThe commands on sound inputs:")
    for name in COMMANDS:
        if (known := world.load(work / "world")).sound_file(name).exists():
            print(f"  {name:<34} {known.sound(name)['seconds']:6.1f} s  {known.sound(name)['peak_mib']:5d} MiB")
    return results


def _show(only: str, seed: int, work: Path) -> dict[str, Any]:
    """One case and all that it says."""
    category, _, number = only.partition(":")
    line = run_case(Case(category, int(number), seed), world.load(work / "world"), work / "case")
    print(f"\n{describe(line)}\n{line['command']}\n{line['stderr']}\n{json.dumps(line, indent=1)}")
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("categories", nargs="*", metavar="CATEGORY", help=f"of {', '.join(CATEGORIES)} (all)")
    parser.add_argument("--cases", type=int, default=4160, help="in all, shared by the categories (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all mutations (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (%(default)s)")
    parser.add_argument("--only", metavar="CATEGORY:NUMBER", help="run one case and show what it says")
    parser.add_argument(
        "--work", metavar="FOLDER", help="keep the sound inputs there for the next time (same code only)"
    )
    parser.add_argument("--output", metavar="FILE", help="JSON with every case and its result")
    return parser


if __name__ == "__main__":
    main()
