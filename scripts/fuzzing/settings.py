"""Cases of what users write: every field of a config, and the flags of every program."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.fuzzing import oracles, programs, schemas
from scripts.fuzzing.commands import COMMANDS
from scripts.fuzzing.documents import Path as Place
from scripts.fuzzing.documents import write_path
from scripts.fuzzing.tokens import FLAG_TEXTS, JSON_TOKENS, short, value_of
from scripts.fuzzing.trial import Judge, Measures, Trial, difference, may_write, on_command
from scripts.fuzzing.world import CONFIG, FIELDS, World, config_flags

BROKEN_FILES = {
    "empty": "",
    "no function": "x = 1\n",
    "wrong syntax": "def get_config(:\n",
    "raises": "def get_config():\n    raise ValueError('no')\n",
    "returns nothing": "def get_config():\n    pass\n",
    "returns text": "def get_config():\n    return 'text'\n",
    "returns a dictionary": "def get_config():\n    return {'seed': 0}\n",
    "an empty config": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
    "imports what is not there": "import nothing_like_this\n",
    "null bytes": "\x00\x00",
    "takes two": "def get_config(a, b):\n    pass\n",
}


def config(world: World, folder: Path, choose: random.Random) -> Trial:
    """A field of an experiment's config, in its file or by its flag; now and then the file itself."""
    how = choose.random()
    if how < 0.06:
        return _broken_file(world, folder, choose)
    if how < 0.14:
        return _steps(world, folder, choose)
    program = "describe" if choose.random() < 0.6 else "train"
    task, model = "regression", "fnet3d"
    if program == "describe":  # every family and network that there is, by its own defaults
        task, model = choose.choice([tuple(pair) for pair in world.facts["families"]])
    place, value, allowed = _field(world, task, model, choose)
    by_flag = program == "train" and choose.random() < 0.5 and all(isinstance(part, str) for part in place)
    world.copy(folder, "cells05.zarr")
    words = (
        f"config.{write_path(place)} = {short(repr(value))} {'by flag' if by_flag else 'in the file'} ({task}, {model})"
    )
    fields = {name: v for name, v in FIELDS.items() if name != write_path(place)} | {"train.steps": 1}
    fields = {name: v for name, v in fields.items() if name != write_path(place)}
    if by_flag:
        file, flags = CONFIG, [*config_flags(fields), f"--config.{write_path(place)}={value}"]
    else:
        file, flags = str(folder / "mutated.py"), []
        (folder / "mutated.py").write_text(
            _config_file(task, model, place, value, fields if program == "train" else {})
        )
    arguments = [program, f"--config={file}", *flags]
    arguments += ["--workdir=out/T"] if program == "train" else []
    # a flag's text may become a value of the right type: only what a file holds is known
    judge = _config_judge(program, allowed or by_flag, words)
    return _own_trial(words, arguments, ("out/T",) if program == "train" else (), judge)


def _field(world: World, task: str, model: str, choose: random.Random) -> tuple[Place, Any, bool]:
    """A field of the config, a value for it, and whether its document takes that value."""
    found = [
        (tuple(place), annotation, bounds)
        for place, annotation, bounds in schemas.experiment_fields(task, model, world.facts["config"])
    ]
    place, annotation, bounds = choose.choice(found)
    if choose.random() < 0.05:
        return (*place[:-1], "fuzz"), 1, False
    token = schemas.tokens(annotation, bounds, choose)
    value = value_of(token)
    return place, value, schemas.allows(annotation, bounds, value)


def _config_file(task: str, model: str, place: Place, value: Any, fields: Mapping[str, Any]) -> str:
    """A config file that changes one field whatever its type."""
    base = 'base("debug")' if fields else f"base_config({model!r}, {task!r})"
    lines = ["from ml_collections import ConfigDict", "from configs.common import base_config"]
    lines += ["from configs.fnet3d import get_config as base", "", ""]
    lines += ["def get_config():", "    nan, inf = float('nan'), float('inf')", f"    config = {base}"]
    parsed = {name: _literal(text) for name, text in fields.items()}
    lines += [f"    config.{name} = {text!r}" for name, text in parsed.items()]
    lines += ["    plain = config.to_dict()  # a ConfigDict would make 0.0 of False"]
    lines += [f"    plain{''.join(f'[{part!r}]' for part in place)} = {value!r}", "    return ConfigDict(plain)", ""]
    return "\n".join(lines)


def _literal(text: Any) -> Any:
    tuples = {"data.plates", "data.val_fovs"}
    if text in (FIELDS[name] for name in tuples):
        return (text,)
    return tuple(json.loads(f"[{text[1:-1]}]")) if isinstance(text, str) and text.startswith("(") else text


def _config_judge(program: str, allowed: bool, words: str) -> Judge:
    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        if not allowed:
            return f"{program} took a value that its schema does not: {words}"
        if program == "train":
            return next(iter(oracles.measure(folder / "out/T").get("bad", [])), "")
        return ""

    return judge


def _own_trial(words: str, arguments: list[str], written: tuple[str, ...], judge: Judge) -> Trial:
    return Trial(
        words=words,
        program=programs.run(arguments),
        command=" ".join(("python -m vsjax." + arguments[0], *(short(part, 200) for part in arguments[1:]))),
        may_write=written,
        may_write_always=tuple(path for path in written if path.startswith("out/")),
        judge=lambda folder: judge(folder, {}, {}),
    )


def _broken_file(world: World, folder: Path, choose: random.Random) -> Trial:
    name = choose.choice([*BROKEN_FILES, "missing", "a folder", "a FIFO", "text"])
    world.copy(folder, "cells05.zarr")
    file = folder / "broken.py"
    if name in BROKEN_FILES:
        file.write_text(BROKEN_FILES[name])
    elif name == "a folder":
        file.mkdir()
    program = choose.choice(["train", "describe", "preprocess"])
    more = {"train": ["--workdir=out/T"], "describe": []}.get(
        program, ["--plate", "cells05.zarr", "--output", "out/E.zarr"]
    )
    path = {"text": "x" * 10_000, "a FIFO": "/dev/null"}.get(name, str(file))
    judge: Judge = lambda folder, found, sound: "a broken config file was taken"  # noqa: E731
    return _own_trial(
        f"config file: {name} ({program})", [program, f"--config={path}", *more], ("out/T", "out/E.zarr"), judge
    )


def _steps(world: World, folder: Path, choose: random.Random) -> Trial:
    """A setting of a step of `preprocess --config`."""
    world.copy(folder, "cells05.zarr")
    step = choose.choice(world.facts["steps"])
    section = {"name": step["name"], **step["settings"]}
    document: dict[str, Any] = {"steps": [section], "statistics": {"grid": 2}}
    target, name = choose.choice([(section, key) for key in section] + [(document, "steps"), (document, "statistics")])
    value = value_of(choose.choice(list(JSON_TOKENS.values())))
    target[name] = value
    text = "from ml_collections import ConfigDict\nnan, inf = float('nan'), float('inf')\n\n\ndef get_config():\n"
    text += f"    return ConfigDict({document!r})\n"
    (folder / "mutated.py").write_text(text)
    arguments = [
        "preprocess",
        "--config",
        str(folder / "mutated.py"),
        "--plate",
        "cells05.zarr",
        "--output",
        "out/E.zarr",
    ]

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        return next(iter(oracles.measure(folder / "out/E.zarr").get("bad", [])), "")

    return _own_trial(f"step {step['name']}: {name} = {short(repr(value))}", arguments, ("out/E.zarr",), judge)


def flags(world: World, folder: Path, choose: random.Random) -> Trial:
    """A flag of a program, with another text, twice, too often or without its value."""
    names = [name for name in world.facts["flags"] if name in COMMANDS or name == "simulate"]
    name = choose.choice(names)
    flag = choose.choice(world.facts["flags"][name])
    arguments = world.facts["simulate"] if name == "simulate" else list(COMMANDS[name].arguments)
    texts = [choose.choice([*FLAG_TEXTS, *flag["choices"]]) for _ in range(flag["count"] or 1)]
    if flag["count"] and choose.random() < 0.2:
        texts = texts[:-1]
    given = [flag["name"], *texts] if choose.random() < 0.9 else [flag["name"]]
    if name in ("resume",) or arguments[0] == "train":
        given = [f"{flag['name']}={texts[0]}"]
    changed = [*_without(arguments, flag["name"]), *given]
    words = f"{name}: {' '.join(map(short, given))}"
    if name == "simulate":
        written = texts[0].partition("/")[0] if flag["name"] == "--output" else "out/P.zarr"
        trial = _own_trial(words, changed, (written,), lambda *_: "")
        world.copy(folder)
        return trial
    world.copy(folder, *COMMANDS[name].inputs)
    sound = on_command(world, name, words, _flag_judge(texts))
    is_output = flag["name"] in ("--output", "--workdir")
    writes = (texts[0].partition("/")[0],) if is_output else (*may_write(COMMANDS[name]), "out")
    return Trial(
        words=words,
        program=programs.run(changed),
        command=f"python -m vsjax.{' '.join(short(part) for part in changed)}",
        may_write=writes,
        may_write_always=sound.may_write_always,
        judge=(lambda folder: "") if is_output else sound.judge,
        sound="" if is_output else name,
    )


def _without(arguments: list[str], flag: str) -> list[str]:
    """A command line without a flag and its values."""
    kept, inside = [], False
    for part in arguments:
        if part.startswith("--"):
            inside = part == flag or part.startswith(f"{flag}=")
        if not inside:
            kept.append(part)
    return kept


def _flag_judge(texts: list[str]) -> Judge:
    """Another result is right unless a number was none: not finite, or below 0."""

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        for text in texts:
            try:
                number = float(text)
            except ValueError:
                continue
            if not abs(number) < 1e300 or number < 0:
                return f"{short(text)} was taken as a number: {difference(found, sound)}"
        return ""

    return judge


CATEGORIES = {"config": config, "flags": flags}
