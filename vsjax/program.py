"""What every `python -m vsjax.NAME` shares: how it starts and ends, one line for a user's mistake, a traceback for
ours; the flags of a program that several processes share, and the progress that it shows."""

import argparse
import ast
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from vsjax.disk import writing
from vsjax.errors import Preempted, UserError, WriteError
from vsjax.plates.derived import Listener

RESTART = 75  # EX_TEMPFAIL of sysexits.h: "try again later"; the launchers in scripts/ start such a job again


def run_program(name: str, main: Callable[[], None]) -> None:
    """Call `main` and exit: status 0; 1 after one line on standard error when it raises `UserError`; `RESTART` when it
    was told to stop and the same command would go on."""
    _show_log()
    _keep_compiled_programs()
    try:
        with writing(Path.cwd()):
            main()
    except WriteError as error:
        print(f"\nvsjax.{name}: error: {_one_line(error)}", file=sys.stderr)  # below the progress bar
        sys.stdout.flush()
        os._exit(1)  # open files and the libraries' threads would try to write again, and complain at length
    except UserError as error:
        print(f"vsjax.{name}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Preempted as stop:
        print(f"vsjax.{name}: {stop}", file=sys.stderr)
        sys.exit(RESTART)
    except KeyboardInterrupt:
        print(f"vsjax.{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def parse_settings(flag: str, items: Sequence[str]) -> dict[str, Any]:
    """`["head_pool=True", "backbone=convnextv2_tiny"]` as a dictionary; what is no Python literal is text.

    Raises:
        UserError: one has no value; the line names `flag`.
    """
    settings = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"{flag} {item}: has no value; write NAME=VALUE, such as head_pool=True")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what a parser of Python raises
            settings[name] = text
    return settings


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """`--processes N`, `--process I` and `--cluster`, for work that several processes share without talking."""
    parser.add_argument(
        "--processes", type=int, metavar="N", help="as many share the work, started with the same command"
    )
    parser.add_argument("--process", type=int, metavar="I", help="the number of this one, from 0")
    parser.add_argument("--cluster", action="store_true", help=f"take both from Slurm: srun -n N {parser.prog}")


def which_process(options: argparse.Namespace) -> tuple[int, int]:
    """The number of this process and how many there are, given or as Slurm says.

    Raises:
        UserError: a part is missing, or they do not go together.
    """
    given = (options.process, options.processes)
    if options.cluster:
        if given != (None, None):
            raise UserError("command line: --cluster takes the numbers from Slurm; leave --process, --processes out")
        given = tuple(os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_NTASKS"))
        if None in given:
            raise UserError(
                "command line: --cluster: SLURM_PROCID and SLURM_NTASKS are not set; start it with srun, or give "
                "--process I --processes N"
            )
    if given == (None, None):
        return 0, 1
    if None in given:
        raise UserError("command line: give both --process I (from 0) and --processes N")
    process, processes = map(int, given)
    if not 0 <= process < processes:
        raise UserError(
            f"command line: --process {process} must be from 0 to {processes - 1} (--processes {processes})"
        )
    return process, processes


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _tell_of_unraisable(unraisable: Any) -> None:
    """What Python says, except of what TensorStore says of writes that Orbax gave up when one of them failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _show_log() -> None:
    """vsjax's own messages on standard error; of the libraries' only warnings: they tell of every file they touch."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax warns of what it leaves out, and raises what fails
    sys.unraisablehook = _tell_of_unraisable
    logger = logging.getLogger("vsjax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]


def _keep_compiled_programs() -> None:
    """Let XLA keep what it compiled in the user's cache folder, so that the next start of the same experiment is quick.
    `JAX_COMPILATION_CACHE_DIR` names another folder."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "vsjax" / "xla"))


class ProgressBar(Listener):
    """Shows how a plate is made: a bar on standard error, a line per finished position on standard output."""

    def __init__(self) -> None:
        self._bar = tqdm(disable=True)

    def started(self, positions: int, finished_before: int, slices: int) -> None:
        """Begin the bar; say what need not be done again."""
        if finished_before:
            print(f"{finished_before} of {positions} positions were finished before", flush=True)
        self._bar = tqdm(total=slices, unit="slice", file=sys.stderr)

    def position_begins(self, name: str) -> None:
        """Write the name beside the bar."""
        self._bar.set_description(name)

    def slices_done(self, slices: int) -> None:
        """Lengthen the bar."""
        self._bar.update(slices)

    def position_finished(self, name: str) -> None:
        """One line."""
        self._bar.write(f"{name}: finished", file=sys.stdout)
        sys.stdout.flush()

    def ended(self) -> None:
        """Close the bar, so that what is printed next stands below it."""
        self._bar.close()
