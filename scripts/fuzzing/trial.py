"""One case made ready: a folder with changed inputs, and the command that is run on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.fuzzing import oracles, programs
from scripts.fuzzing.commands import COMMANDS, Command
from scripts.fuzzing.world import World

Measures = dict[str, Any]
Judge = Callable[[Path, Measures, Measures], str]


@dataclass(frozen=True)
class Trial:
    """What is run in a case's folder, and how what it accepts is judged.

    Attributes:
        words: the mutation.
        program: called in a child whose working directory is the folder.
        command: as it would be typed.
        may_write: paths in the folder that it may change when it accepts.
        judge: why it should not have been accepted, empty otherwise; called in a child.
        may_write_always: also when it refuses, since what it writes it writes before.
        setup: called in a child before, for what needs threads.
        seconds: allowed.
        sound: the command whose result on sound inputs `judge` compares with.
    """

    words: str
    program: Callable[[], None]
    command: str
    may_write: tuple[str, ...]
    judge: Callable[[Path], str]
    may_write_always: tuple[str, ...] = ()
    setup: Callable[[], None] | None = None
    seconds: float = 20.0
    sound: str = ""


def on_command(world: World, name: str, words: str, judge: Judge, seconds: float = 20.0) -> Trial:
    """The trial of one of `COMMANDS`, whose inputs lie changed in the folder.

    Args:
        world: knows what the command gives on sound inputs.
        name: of the command.
        words: the mutation.
        judge: called with the folder, what the command gave now and what it gives on sound inputs, when these differ.
        seconds: allowed.
    """
    command = COMMANDS[name]

    is_in_place = any(path.endswith("#documents") for path in may_write(command))

    def judged(folder: Path) -> str:
        sound = world.sound(name)["measure"]
        found = oracles.measure(folder / command.output)
        # what was changed for this case is no fault of the program
        bad = [] if command.output in command.inputs else found.get("bad")
        if bad:
            return f"wrote {bad[0]}"
        if is_in_place:  # its pixels are those that the case changed: only what was computed of them tells
            found, sound = ({"statistics": part["statistics"]} for part in (found, sound))
        return "" if found == sound else judge(folder, found, sound)

    return Trial(
        words=words,
        program=programs.run(command.arguments),
        command=" ".join(("python -m vsjax." + command.arguments[0], *command.arguments[1:])),
        may_write=may_write(command),
        judge=judged,
        # what lies half done resumes: a refusal may come after some of it, as when the disk is full
        may_write_always=(command.output,) if command.output.startswith(("out/", "half", "simulated")) else (),
        seconds=seconds,
        sound=name,
    )


def may_write(command: Command) -> tuple[str, ...]:
    """What a command that ends well may change: its output; of a plate that is prepared in place its documents."""
    in_place = command.arguments[0] == "preprocess" and command.output in command.inputs
    return (f"{command.output}#documents",) if in_place else (command.output,)


def never(folder: Path, found: Measures, sound: Measures) -> str:
    """For inputs whose every accepted change must leave the result as it is."""
    return f"another result: {difference(found, sound)}"


def difference(found: Measures, sound: Measures) -> str:
    """The first part of two results that differs."""
    for part in (found or {}).keys() | (sound or {}).keys():
        new, old = (found or {}).get(part), (sound or {}).get(part)
        if new != old:
            if isinstance(new, dict) and isinstance(old, dict):
                names = [name for name in new.keys() | old.keys() if new.get(name) != old.get(name)]
                return f"{part} {sorted(names)[0]} ({len(names)} of {len(old)})"
            return f"{part}: {str(new)[:80]} for {str(old)[:80]}"
    return "none"
