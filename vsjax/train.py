"""Train a model: `python -m vsjax.train --config configs/unext2.py --workdir runs/a --config.data.plates=P.zarr`."""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from vsjax.program import parse_flags, run_program, show_help


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    arguments = sys.argv if arguments is None else ["vsjax.train", *arguments]
    given = define_flags(arguments)
    show_help(given, arguments, __doc__)
    config, _ = parse_flags(given, arguments, {"config": "configs/unext2.py", "workdir": "runs/a"})
    from vsjax.runtime.processes import join_processes
    from vsjax.training.loop import train

    join_processes(given.cluster, given.coordinator, given.processes, given.process)
    train(config, given.workdir)


def define_flags(arguments: Sequence[str]) -> flags.FlagValues:
    """The flags that there are; `arguments` tell which fields of the config are among them."""
    known = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The experiment, e.g. configs/unext2.py; --config.FIELD=VALUE changes a field of it.",
        lock_config=True, flag_values=known, sys_argv=list(arguments),
    )  # fmt: skip
    text = {
        "workdir": "Where checkpoints and logs go; give it again to go on.",
        "coordinator": "host:port of process 0, where there is no --cluster.",
    }
    numbers = {
        "processes": "How many processes train together, with --coordinator.",
        "process": "The number of this one, from 0, with --coordinator.",
    }
    for name, meaning in text.items():
        flags.DEFINE_string(name, None, meaning, flag_values=known)
    for name, meaning in numbers.items():
        flags.DEFINE_integer(name, None, meaning, flag_values=known)
    flags.DEFINE_bool("cluster", False, "One of the processes of a Slurm job step or a TPU pod.", flag_values=known)
    return known


if __name__ == "__main__":
    run_program("train", main)
