"""Use weights of other software: `python -m vsjax.convert --input VSCyto3D.ckpt --output models/vscyto3d`."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsjax.disk import writing
from vsjax.errors import UserError, shorten
from vsjax.intensity.normalization import Normalization, location_scale
from vsjax.interop.conversion import ConvertedNetwork, convert_file
from vsjax.interop.published import find_recipe
from vsjax.models.registry import MODELS
from vsjax.plates.reader import open_plate
from vsjax.plates.storage import check_apart, local_output
from vsjax.program import Parser, parse_settings, real, run_program
from vsjax.runtime.checkpoint import describe_checkpoint, save_variables
from vsjax.runtime.description import Description, make_description
from vsjax.schema import LONGEST_NAME, parse


@dataclass(frozen=True)
class Data:
    """The data that a model is for, as a checkpoint describes it.

    Attributes:
        source, target: names of the channels.
        source_normalization, target_normalization: how each is normalised.
        statistics: of the plates that it was trained on, by channel; empty where they are not known.
        pixel_size_um: (z, y, x) of these plates; empty where it is not known.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    source_normalization: Normalization
    target_normalization: Normalization
    statistics: dict[str, dict[str, float]]
    pixel_size_um: tuple[float, ...]

    def described(self) -> dict[str, Any]:
        """Fields of a checkpoint's description, as `vsjax.train` writes them."""
        roles = {"source": (self.source, self.source_normalization), "target": (self.target, self.target_normalization)}
        return {
            "channels": {
                role: {"channels": channels, "normalization": normalization}
                for role, (channels, normalization) in roles.items()
            },
            "pixel_size_um": self.pixel_size_um,
            "statistics": self.statistics,
        }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, convert, and say what was found and what was assumed."""
    options = _parser().parse_args(arguments)
    for source in (options.input, *([] if options.statistics is None else [options.statistics])):
        check_apart(source, options.output)
    output = local_output(options.output)
    _check_output(output, options.overwrite)
    network = convert_file(options.input, options.model, parse_settings("--set", options.set))
    config = {
        "model": {"name": network.name, **network.settings},
        "task": {"name": "regression"},
        "dtype": "float32",
        "predict": {"tta": "none"},
    }
    data = _describe_data(network, options) if network.parts == "all" else None
    fields = {
        "config": config,
        "converted_from": os.fsencode(Path(options.input).absolute()).decode(errors="replace"),
        "parts": network.parts,
        **(data.described() if data else {}),
    }
    description = make_description(fields, options.statistics or options.input)
    _print_network(network)
    if data:
        _print_data(data)
    _save(output, network.variables, description)
    if network.parts == "all":
        print(f"wrote {output}: python -m vsjax.predict --checkpoint {options.output} --input PLATE --output STAINED")
    else:
        print(f"wrote {output}: an encoder to begin training with: --config.init.checkpoint={options.output} "
              "--config.init.load=encoder")  # fmt: skip


def _describe_data(network: ConvertedNetwork, options: argparse.Namespace) -> Data:
    """Channels, normalisation, statistics and pixel size: the user's, or else those of the published model.

    Raises:
        UserError: the names are not as many as the network's channels, or nothing tells which of the channels in the
            plate of --statistics are the targets, or it lacks one.
    """
    recipe = find_recipe(network.name, network.settings)
    source = tuple(options.source or recipe.source_channels)
    target = tuple(options.target or recipe.target_channels)
    _check_names(options.input, "--source", source, "sees", network.settings["in_channels"])
    _check_names(options.input, "--target", target, "predicts", network.settings["out_channels"])
    nameless = [role for role in recipe.numbered if not getattr(options, role)]
    if options.statistics and "target" in nameless:
        raise UserError(
            f"{options.statistics}: nothing tells which of its channels are the targets; name them by --target"
        )
    print(f"{options.input}: has the shape of {recipe.title}")
    for role in nameless:
        names = " ".join({"source": source, "target": target}[role])
        print(f"nothing tells the names of its {role} channels: {names} (--{role} gives others)")
    target_normalization = _parse_normalization("--normalization-target", options.normalization_target, recipe.target)
    statistics, pixel_size_um = {}, ()
    if options.statistics:
        statistics, pixel_size_um = _read_statistics(options.statistics, source, target, target_normalization)
    return Data(
        source,
        target,
        _parse_normalization("--normalization-source", options.normalization_source, recipe.source),
        target_normalization,
        statistics,
        tuple(float(size) for size in options.pixel_size or pixel_size_um),
    )


def _read_statistics(
    url: str, source: Sequence[str], target: Sequence[str], normalization: Normalization
) -> tuple[dict[str, dict[str, float]], tuple[float, ...]]:
    """What a plate knows of the channels, and its pixel size; UserError where predictions could not have its units."""
    position = open_plate(url).first_position()
    wanted = [*target, *(name for name in source if name in position.channel_names)]
    statistics = {name: position.statistics(name, "dataset") for name in wanted}
    for name in target if normalization.scope != "none" else ():
        location_scale(statistics[name], normalization.statistic, f"{name} of {url}")
    return statistics, position.pixel_size_um


def _check_names(path: str, flag: str, names: Sequence[str], verb: str, count: int) -> None:
    if len(names) != count or len(set(names)) != count:
        given = f"{flag} names {shorten(' '.join(names))}"
        raise UserError(f"{path}: the network {verb} {count} channels, but {given}; name {count} different ones")
    for name in names:
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise UserError(f"{flag} {shorten(name)}: is no name of a channel; give 1 to {LONGEST_NAME} characters")


def _parse_normalization(flag: str, text: str | None, default: Normalization) -> Normalization:
    """`fov/mean_std` as an object, or `none`; the default where the user gives nothing."""
    if text is None:
        return default
    scope, _, statistic = text.partition("/")
    given = {"scope": scope} if text == "none" else {"scope": scope, "statistic": statistic}
    return parse(Normalization, given, f"{flag} {shorten(text)}: ", "write it as SCOPE/STATISTIC, such as fov/mean_std")


def _print_network(network: ConvertedNetwork) -> None:
    settings = ", ".join(f"{name} {value}" for name, value in network.settings.items())
    what = "network" if network.parts == "all" else f"{network.parts} of"
    print(f"{what} {network.name}: {settings}")
    if network.assumed:
        values = " ".join(f"{name}={network.settings[name]}" for name in network.assumed)
        print(f"assumed, since the weights do not tell (--set gives other values): {values}")


def _print_data(data: Data) -> None:
    roles = (
        ("source", data.source, data.source_normalization),
        ("target", data.target, data.target_normalization),
    )
    for role, names, normalization in roles:
        scaled = "not" if normalization.scope == "none" else f"by {normalization.scope}/{normalization.statistic}"
        print(f"{role} {', '.join(names)}: normalised {scaled} (--{role}, --normalization-{role} give others)")
    if not data.statistics and data.target_normalization.scope != "none":
        print("predictions are in normalised units: the stains' own need --statistics, a plate that holds them")


def _check_output(output: Path, overwrite: bool) -> None:
    """UserError where something is in the way; --overwrite replaces a converted checkpoint and nothing else."""
    try:
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
    except OSError as error:  # a name that is too long, a folder that must not be read
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    if not overwrite:
        raise UserError(f"{output}: exists; choose another --output, or --overwrite a converted checkpoint")
    try:
        is_converted = bool(describe_checkpoint(output / "checkpoints" / "best" / "0").converted_from)
    except UserError:
        is_converted = False
    own = {Path("checkpoints"), Path("checkpoints/best"), Path("checkpoints/best/0")}
    if (
        not is_converted
        or {path.relative_to(output) for n in (1, 2, 3) for path in output.glob("/".join("*" * n))} != own
    ):
        raise UserError(f"{output}: is no converted checkpoint, so --overwrite spares it; choose another --output")


def _save(output: Path, variables: dict[str, Any], description: Description) -> None:
    """Write beside the output and rename, so that what was there is replaced by a whole checkpoint or not at all."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    with writing(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        save_variables(Path(folder) / "new", variables, description)
        if output.exists():
            output.rename(Path(folder) / "old")
        (Path(folder) / "new").rename(output)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m vsjax.convert",
        description="Convert a network of VisCy's (Lightning checkpoint, state_dict or safetensors), or a ConvNeXt V2 "
        "backbone, into a checkpoint for vsjax.predict and vsjax.train. Nothing in the file is executed.",
    )
    parser.add_argument("--input", required=True, help=".ckpt, .pt, .pth or .safetensors")
    parser.add_argument("--output", required=True, help="folder of the checkpoint to write")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="label-free channels, in the model's order")
    parser.add_argument("--target", nargs="+", metavar="NAME", help="predicted channels, in the model's order")
    parser.add_argument("--model", choices=list(MODELS), help="refuse a file that holds another network")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the network")
    for role in ("source", "target"):
        parser.add_argument(
            f"--normalization-{role}",
            metavar="SCOPE/STATISTIC",
            help="such as fov/mean_std or dataset/median_iqr, or none (the published model's)",
        )
    parser.add_argument(
        "--statistics", metavar="PLATE", help="a plate with the stains and vsjax.preprocess's statistics: gives units"
    )
    parser.add_argument(
        "--pixel-size", nargs=3, type=real(1e-6, 1e6), metavar=("Z", "Y", "X"), help="µm, of the training plates"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the converted checkpoint that is there")
    return parser


if __name__ == "__main__":
    run_program("convert", main)
