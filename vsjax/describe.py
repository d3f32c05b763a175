"""What an experiment would train, without data: `python -m vsjax.describe --config configs/unext2.py`."""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from vsjax.program import parse_flags, run_program, show_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every network of the experiment's task and what a training step holds."""
    arguments = sys.argv if arguments is None else ["vsjax.describe", *arguments]
    given = _define_flags(arguments)
    show_help(given, arguments, __doc__)
    config, _ = parse_flags(given, arguments, {"config": "configs/unext2.py"})
    from vsjax.training.experiment_overview import compile_experiment, describe_experiment

    for line in describe_experiment(config):
        print(line)
    if given.compile:
        compile_experiment(config)


def _define_flags(arguments: Sequence[str]) -> flags.FlagValues:
    known = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The experiment.", lock_config=True, flag_values=known, sys_argv=list(arguments)
    )
    flags.DEFINE_bool("compile", False, "Compile the step, for XLA's account.", flag_values=known)
    return known


if __name__ == "__main__":
    run_program("describe", main)
