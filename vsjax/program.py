"""What every `python -m vsjax.NAME` shares: how it starts and ends, one line for a user's mistake, a traceback for
ours; the flags of a program that several processes share, and the progress that it shows."""

import argparse
import ast
import copy
import errno
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from vsjax.disk import writing
from vsjax.errors import Preempted, UserError, WriteError, shorten
from vsjax.plates.listener import Listener

RESTART = 75  # EX_TEMPFAIL of sysexits.h: "try again later"; the launchers in scripts/ start such a job again
PIPE_CLOSED = 141  # 128 + SIGPIPE, as of other programs
_BAD_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


def run_program(name: str, main: Callable[[], None]) -> None:
    """Call `main` and exit: status 0; 1 after one line on standard error when it raises `UserError`, when a path cannot
    be one, or the memory does not suffice; `RESTART` when it was told to stop and the same command would go on;
    `PIPE_CLOSED` when nobody reads its output any more."""
    _show_log()
    _keep_compiled_programs()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know the letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with writing(_working_folder()):
            main()
            _flush()
    except WriteError as error:
        print(f"\nvsjax.{name}: error: {error}", file=sys.stderr)  # below the progress bar
        _flush()
        os._exit(1)  # open files and the libraries' threads would try to write again, and complain at length
    except Preempted as stop:
        print(f"vsjax.{name}: {stop}", file=sys.stderr)
        sys.exit(RESTART)
    except KeyboardInterrupt:
        print(f"vsjax.{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        sys.exit(PIPE_CLOSED)
    except Exception as error:
        if (line := _line_for_user(error)) is None:
            raise
        print(f"vsjax.{name}: error: {line}", file=sys.stderr)
        sys.exit(1)


def _line_for_user(error: Exception) -> str | None:
    """What a user can put right; None where the error is a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno not in _BAD_PATHS or error.filename is None:
            return None
        return str(UserError(f"{shorten(str(error.filename), 300)}: {error.strerror}; give another path"))
    if isinstance(error, MemoryError) or _fills_device(error):
        reason = shorten(str(error) or type(error).__name__, 300)
        return str(UserError(f"the memory does not suffice ({reason}); take smaller tiles, patches or batches"))
    return None


def _fills_device(error: Exception) -> bool:
    """Whether it is XLA's for a device whose memory does not suffice; JAX is imported where it is."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the working folder is not there any more; change to another") from error


def _flush() -> None:
    if sys.stdout is not None:  # it is closed: `>&-`
        sys.stdout.flush()


def parse_settings(flag: str, items: Sequence[str]) -> dict[str, Any]:
    """`["head_pool=True", "backbone=convnextv2_tiny"]` as a dictionary; what is no Python literal is text.

    Raises:
        UserError: one has no value; the line names `flag`.
    """
    settings = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"{flag} {shorten(item)}: has no value; write NAME=VALUE, such as head_pool=True")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # whatever Python's parser raises
            settings[name] = text
    return settings


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as everything else is said, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        raise UserError(f"command line: {message}; {self.prog} --help shows all flags")


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of a flag of `Parser`: a whole number in a range."""
    return _number(int, "whole number", least, most)


def real(least: float, most: float) -> Callable[[str], float]:
    """The type of a flag of `Parser`: a finite number in a range."""
    return _number(float, "number", least, most)


def _number(kind: type, name: str, least: float, most: float) -> Callable[[str], Any]:
    def parse_number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no {name}") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{shorten(text)} is not from {least} to {most}")
        return value

    return parse_number


def show_help(values: flags.FlagValues, arguments: Sequence[str], about: str) -> None:
    """Print the flags and exit with status 0 where `--help` is among the arguments."""
    if {"--help", "-help", "-h"} & set(arguments[1:]):
        print(about, values.get_help(), sep="\n")
        sys.exit(0)


def parse_flags(
    values: flags.FlagValues, arguments: Sequence[str], required: Mapping[str, str], known_only: bool = False
) -> tuple[ConfigDict, list[str]]:
    """Read absl's flags. The Python in the file of `--config` is run last, when nothing else is wrong.

    Args:
        values: the flags that there are.
        arguments: the program's name and what follows it.
        required: flags that must be given, with an example of each.
        known_only: leave other flags to another parser.

    Returns:
        The config, and the arguments that belong to no flag.

    Raises:
        UserError: a flag or a field is wrong or missing, or the file cannot be read, or whatever its Python raises.
    """
    missing = "command line: give " + " and ".join(f"--{name} {example}" for name, example in required.items())
    given = _parse_without_config(values, arguments, known_only)
    if any(given[name].value is None for name in required):
        raise UserError(missing)
    file = Path(given["config"].value.partition(":")[0])
    if file.name and file.exists() and not file.is_file():
        raise UserError(f"command line: --config {file}: is no file; give one such as configs/unext2.py")
    try:
        rest = values(list(arguments), known_only=known_only)[1:]
        config = values["config"].value
        if config is not None and not isinstance(config, ConfigDict):
            raise TypeError(f"get_config gives {type(config).__name__}, not a ConfigDict")
        config = config and config.copy_and_resolve_references()
    except (Exception, SystemExit) as error:  # what a user's Python raises may be anything
        said = str(error)
        if isinstance(error, flags.Error) and _LOADING not in said:
            raise UserError(f"command line: {said}") from error
        cause = error
        while _LOADING in said and cause.__context__ is not None:  # libraries put tracebacks into their messages
            cause, said = cause.__context__, str(cause.__context__)
        kind = "" if isinstance(cause, UserError) else f"{type(cause).__name__}: "
        raise UserError(f"command line: --config {given['config'].value}: {kind}{said}") from error
    if rest and not known_only:
        raise UserError(_stray(rest[0], values))
    if config is None:
        raise UserError(missing)
    return config, rest


_LOADING = "Error whilst parsing config file"  # ml_collections' words
_FIELD = re.compile(r"--?(no)?config\.")


def _parse_without_config(values: flags.FlagValues, arguments: Sequence[str], known_only: bool) -> flags.FlagValues:
    """The flags read with the name of the config alone: the file's Python imports JAX, which takes a second or two.

    Raises:
        UserError: a flag does not exist, or its value is wrong.
    """
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # go on behind what may be the value of a config's field
    flags.DEFINE_string("config", None, "", flag_values=known)
    for name in set(values) - {"config"}:
        flags.DEFINE_flag(copy.deepcopy(values[name]), known)
    try:
        rest = known(list(arguments), known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(f"command line: {error}") from error
    for before, argument in itertools.pairwise(rest):
        may_be_value = _FIELD.match(before) and "=" not in before and not re.match("--?[a-z]", argument)
        if not (known_only or _FIELD.match(argument) or may_be_value):
            raise UserError(_stray(argument, values))
    return known


def _stray(argument: str, values: flags.FlagValues) -> str:
    names = ", ".join(f"--{name}" for name in values if not _FIELD.match(f"--{name}"))
    return (
        f"command line: {shorten(argument)!r} belongs to no flag; there are {names}; a value follows its flag after "
        "'=' or a space"
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """`--processes N`, `--process I` and `--cluster`, for work that several processes share without talking."""
    parser.add_argument(
        "--processes", type=whole(1, 10**6), metavar="N", help="as many share the work, started with the same command"
    )
    parser.add_argument("--process", type=whole(0, 10**6), metavar="I", help="the number of this one, from 0")
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
    try:
        process, processes = map(int, given)
    except ValueError as error:
        raise UserError(f"command line: --cluster: SLURM_PROCID={given[0]!r} or SLURM_NTASKS is no number") from error
    if not 0 <= process < processes:
        raise UserError(
            f"command line: --process {process} must be from 0 to {processes - 1} (--processes {processes})"
        )
    return process, processes


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
    # By default 1 s; to load a program takes less than 0.1 s.
    settings: dict[str, str | float] = {"jax_persistent_cache_min_compile_time_secs": 0.1}
    if (cache := _cache_folder()) is not None:
        settings["jax_compilation_cache_dir"] = str(cache)
    for name, value in settings.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)  # read when JAX is imported, where it is not yet
            if (jax := sys.modules.get("jax")) is not None:
                jax.config.update(name, value)


def _cache_folder() -> Path | None:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsjax" / "xla"
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or none to write to: every start compiles anew
        return None
    return cache if os.access(cache, os.W_OK) else None


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
