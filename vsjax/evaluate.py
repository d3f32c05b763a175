"""How good is a prediction? `python -m vsjax.evaluate --prediction S.zarr --target P.zarr --output report/`.

Compares two plates position by position and channel by channel (`nuclei_prediction` with `nuclei`) at several levels.
Each level writes to the output directory `LEVEL.csv` (a row per position, time point and channel), `LEVEL_summary.csv`
(per channel), `LEVEL_objects.csv` where it looks at objects, and figures `LEVEL*.png`; `metrics.json` holds all tables
but the objects, with the definition of every metric. It is written last, so where it is, the report is complete.

Several processes share an evaluation without talking: each measures its share, and whoever finishes last writes the
report, the same as one process would have written.
"""

import argparse
from functools import partial

from tqdm import tqdm

from vsjax.evaluation.units import CHOICES, UNITS
from vsjax.program import Parser, add_process_flags, run_program, which_process


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, evaluate, and print the summary."""
    options = _parser().parse_args(arguments)
    options.process, options.processes = which_process(options)
    del options.cluster
    from vsjax.evaluation import report
    from vsjax.evaluation.comparison import LEVELS, evaluate

    done = evaluate(**vars(options), progress=partial(tqdm, unit="stack"))
    for name, summary in done.summary.items():
        print(report.format_summary(summary, LEVELS[name].metrics))
        if noted := sum(entry["noted"] for entry in summary):
            print(f"{noted} stacks carry a note, such as a constant target: see the column `note` of {name}.csv")
    for units in dict.fromkeys(entry["units"] for summary in done.summary.values() for entry in summary):
        print(f"units {units}: {UNITS[units]}")
    if options.processes > 1:
        print(f"process {options.process} of {options.processes} is done")
    state = "" if done.complete else " is not complete yet, the other processes go on"
    print(f"report: {options.output}{state}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vsjax.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--prediction", required=True, help="plate with the predicted channels")
    parser.add_argument("--target", required=True, help="plate with the measured channels")
    parser.add_argument("--output", required=True, help="directory for the report")
    parser.add_argument(
        "--levels", nargs="+", help="such as pixel uncertainty; default: all that do with what is given here"
    )
    parser.add_argument("--channels", nargs="+", help="the target's channel names; default: all that were predicted")
    parser.add_argument("--positions", nargs="+", help="such as A/1/0; default: all of the prediction")
    parser.add_argument("--source", help="channel to show beside them; default: the one that was predicted from")
    parser.add_argument("--labels", metavar="NAME", help="the target plate's labels, for levels that require them")
    parser.add_argument("--units", choices=CHOICES, default="auto",
                        help="; ".join(f"{name}: {meaning}" for name, meaning in UNITS.items()))  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier report")
    add_process_flags(parser)
    return parser


if __name__ == "__main__":
    run_program("evaluate", main)
