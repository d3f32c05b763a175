"""How every `python -m vsjax.NAME` starts and ends: its log, one line for a user's mistake, a traceback for ours."""

import ast
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from vsjax.disk import writing
from vsjax.errors import Preempted, UserError, WriteError

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
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings


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
