"""What is found out once: what each command gives on sound inputs, and what there is to change."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.fuzzing import oracles, programs, run, schemas, world
from scripts.fuzzing.child import Limits, run_child
from scripts.fuzzing.commands import COMMANDS, Command
from scripts.fuzzing.trial import Trial, may_write
from scripts.fuzzing.verdict import last_line

_LONG = Limits(seconds=600, bytes=8 << 30)


def gather(work: Path) -> None:
    """Make the world in `work/world`, and keep what there is to change in `work/facts.json`; what an earlier run of the
    harness made is taken as it is."""
    if (work / "facts.json").exists():
        return
    folder = work / "world"
    folder.mkdir(parents=True)
    (work / "tmp").mkdir()
    _in_child(work, folder, lambda: world.build(folder))
    _in_child(work, folder, world.build_half)
    facts = _in_child(work, folder, lambda: print(json.dumps(_introspect(folder))))
    (work / "facts.json").write_text(json.dumps(facts))


def ensure_sound(known: world.World, name: str, folder: Path) -> dict[str, Any]:
    """The result of a command on sound inputs, computed where nobody did before; `folder` is for its files."""
    file = known.sound_file(name)
    if not file.exists():
        found = _sound(name, COMMANDS[name], known, folder)
        if found["seconds"] > 5:
            found = _sound(name, COMMANDS[name], known, folder)  # with what XLA kept
        whole = file.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(found))
        whole.rename(file)
    return known.sound(name)


def _in_child(work: Path, folder: Path, function: Callable[[], Any]) -> Any:
    outcome = run_child(function, folder, work / "logs", _LONG)
    if outcome.status:
        sys.exit(f"the harness cannot make its inputs: {outcome.stderr[-3000:] or outcome.killed_for}")
    lines = outcome.stdout.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None


def _introspect(folder: Path) -> dict[str, Any]:
    from vsjax.models.registry import MODELS
    from vsjax.steps import STEPS, make_step
    from vsjax.tasks.registry import TASKS

    needed: dict[str, Any] = {"channels": ["BF"], "input": "BF", "source": "BF", "channel": "BF"}
    steps = []
    for name, kind in STEPS.items():
        known = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
        step = make_step({"name": name, **{field: needed[field] for field in known if field in needed}})
        steps.append({"name": name, "settings": {field: getattr(step, field) for field in known}})
    plates = {plate: {name: oracles.digest(array) for name, array in oracles.arrays(folder / plate)}
              for plate in (*world.PLATES, "stained.zarr")}  # fmt: skip
    return {
        "documents": schemas.locate(folder),
        "families": [[task, model] for task in TASKS for model in MODELS],
        "config": _config(),
        "flags": {**_flags(), "simulate": programs.flags_of(["simulate"])},
        "simulate": ["simulate", "--output", "out/P.zarr", *world.SIMULATED],
        "steps": steps,
        "pixels": plates,
    }


def _config() -> dict[str, Any]:
    from configs.common import base_config, channel_role

    config = base_config("fnet3d")
    config.roles.target = channel_role("nuclei")
    return json.loads(json.dumps(config.to_dict()))


def _flags() -> dict[str, list[dict[str, Any]]]:
    """By command; those that are read with absl by their own list."""
    from vsjax.train import define_flags

    found = {}
    for name, command in COMMANDS.items():
        if command.arguments[0] == "train":
            known = define_flags(["vsjax.train"])
            found[name] = [
                {"name": f"--{flag}", "type": known[flag].flag_type(), "count": None, "choices": []} for flag in known
            ]
        else:
            found[name] = programs.flags_of(command.arguments)
    return found


def _sound(name: str, command: Command, known: world.World, folder: Path) -> dict[str, Any]:
    """The result of a command on sound inputs."""
    run.clear(folder)
    inside = folder / "files"
    inside.mkdir(parents=True)
    known.copy(inside, *command.inputs)
    for document in inside.rglob("zarr.json"):
        known.moved(document, inside)
    trial = Trial(
        name, programs.run(command.arguments), name, may_write(command), lambda _: "", may_write(command), seconds=120
    )
    line = run.run_trial(trial, folder)
    if line["faults"] or not line["accepted"]:
        sys.exit(f"{name}: fails on sound inputs: {line['faults'] or line['line']}\n{line['stderr']}")
    measured = run_child(
        lambda: print(json.dumps(oracles.measure(inside / command.output))), inside, folder / "logs", _LONG
    )
    if measured.status:
        sys.exit(f"{name}: its result cannot be read: {last_line(measured.stderr)}")
    return {
        "measure": json.loads(measured.stdout.splitlines()[-1]),
        "seconds": line["seconds"],
        "peak_mib": line["peak_mib"],
    }
