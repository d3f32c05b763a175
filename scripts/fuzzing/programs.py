"""The programs as functions: how each is called in a child, and which flags each has."""

import argparse
import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PROGRAMS = ("simulate", "preprocess", "describe", "train", "predict", "evaluate", "features", "convert")


def warm() -> None:
    """Import all that programs import, so that a fork has it."""
    import vsjax

    for module in pkgutil.walk_packages(vsjax.__path__, "vsjax."):
        importlib.import_module(module.name)
    for name in ("zarr", "matplotlib.figure", "matplotlib.backends.backend_agg", "orbax.checkpoint.logging", "PIL"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def call(command: Sequence[str]) -> None:
    """Do what a command line does, `["predict", "--checkpoint", ...]`; raises what the program raises."""
    with command_line(command):
        importlib.import_module(f"vsjax.{command[0]}").main()


def run(command: Sequence[str]) -> Callable[[], None]:
    """A function that is the program, from its start to its exit."""

    def program() -> None:
        from vsjax.program import run_program

        sys.argv = [f"vsjax.{command[0]}", *command[1:]]
        run_program(command[0], importlib.import_module(f"vsjax.{command[0]}").main)

    return program


def run_function(name: str, function: Callable[[], None]) -> Callable[[], None]:
    """A function of vsjax's library as a program."""

    def program() -> None:
        from vsjax.program import run_program

        sys.argv = [name]
        run_program(name, function)

    return program


@contextlib.contextmanager
def command_line(command: Sequence[str]) -> Iterator[None]:
    """`sys.argv` as a program finds it."""
    before, sys.argv = sys.argv, [f"vsjax.{command[0]}", *command[1:]]
    try:
        yield
    finally:
        sys.argv = before


class _Seen(Exception):
    """Carries a program's parser out of it."""


def flags_of(command: Sequence[str]) -> list[dict[str, Any]]:
    """The flags of a program that reads its command line with argparse, found by letting it begin to.

    Args:
        command: with which it gets as far as its parser, `["preprocess", "equalize"]`.
    """

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Seen(parser)

    parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, stop
    try:
        call(command)
    except _Seen as seen:
        return [_flag(action) for action in seen.args[0]._actions if action.option_strings and action.dest != "help"]
    finally:
        argparse.ArgumentParser.parse_args = parse
    return []


def _flag(action: argparse.Action) -> dict[str, Any]:
    kind = getattr(action.type, "__name__", "str")
    count = action.nargs if isinstance(action.nargs, int) else None
    choices = list(map(str, action.choices)) if action.choices else []
    return {"name": action.option_strings[-1], "type": kind, "count": count, "choices": choices}
