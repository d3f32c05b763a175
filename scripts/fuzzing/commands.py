"""The commands that cases mutate the inputs of, and what they read and write."""

from dataclasses import dataclass

from scripts.fuzzing.world import SIMULATED, train_arguments


@dataclass(frozen=True)
class Command:
    """One command line that works on sound inputs.

    Attributes:
        arguments: the program's name and its flags; paths are those of a case's folder.
        inputs: of the world, that it reads.
        output: what it writes, and may write alone.
    """

    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str


def _predict(plate: str, *more: str, output: str = "out/S.zarr", inputs: tuple[str, ...] = ()) -> Command:
    arguments = ("predict", "--checkpoint", "run", "--input", plate, "--output", output, *more)
    return Command(arguments, ("run", plate, *inputs), output)


def _convert(file: str) -> Command:
    return Command(("convert", "--input", file, "--output", "out/W", "--set", "in_stack_depth=2"), (file,), "out/W")


def _train(output: str, inputs: tuple[str, ...], **fields: object) -> Command:
    dotted = {name.replace("__", "."): value for name, value in fields.items()}
    return Command(tuple(train_arguments(dotted, output)), inputs, output)


def _on_plate(plate: str) -> dict[str, Command]:
    equalize = ("preprocess", "equalize", "--plate", plate, "--output", "out/E.zarr", "--channels", "BF",
                "--kernel", "1", "4", "4")  # fmt: skip
    return {
        f"predict {plate}": _predict(plate),
        f"predict target units {plate}": _predict(plate, "--units", "target"),
        f"preprocess {plate}": Command(("preprocess", "--plate", plate, "--grid", "1"), (plate,), plate),
        f"equalize {plate}": Command(equalize, (plate,), "out/E.zarr"),
        f"train {plate}": _train("out/T", (plate,), data__plates=plate, train__steps=1),
    }


COMMANDS: dict[str, Command] = {
    **_on_plate("cells04.zarr"),
    **_on_plate("cells05.zarr"),
    "predict last": _predict("cells05.zarr", "--which", "last"),
    "predict on": _predict("cells05.zarr", output="half.zarr", inputs=("half.zarr",)),
    "simulate again": Command(
        ("simulate", "--output", "simulated.zarr", *SIMULATED, "--overwrite"), ("simulated.zarr",), "simulated.zarr"
    ),
    "evaluate": Command(
        ("evaluate", "--prediction", "stained.zarr", "--target", "cells05.zarr", "--output", "out/R"),
        ("stained.zarr", "cells05.zarr"),
        "out/R",
    ),
    "features": Command(
        ("features", "--checkpoint", "run", "--input", "cells05.zarr", "--output", "out/f.png"),
        ("run", "cells05.zarr"),
        "out/f.png",
    ),
    "resume": _train("half_run", ("half_run", "cells05.zarr")),
    "begin with": _train("out/T", ("run", "cells05.zarr"), init__checkpoint="run", train__steps=1),
    "convert weights.ckpt": _convert("weights.ckpt"),
    "convert weights.pth": _convert("weights.pth"),
    "convert weights.safetensors": _convert("weights.safetensors"),
    "statistics for convert": Command(
        (
            *_convert("weights.safetensors").arguments,
            "--statistics",
            "cells05.zarr",
            "--source",
            "BF",
            "--target",
            "nuclei",
        ),
        ("weights.safetensors", "cells05.zarr"),
        "out/W",
    ),
}
