"""Use weights of other software: `python -m vsjax.convert --input VSCyto3D.ckpt --output models/vscyto3d`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vsjax.program import Parser, parse_settings, real, run_program

if TYPE_CHECKING:
    from vsjax.interop.channels import Data
    from vsjax.interop.conversion import ConvertedNetwork


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, convert, and say what was found and what was assumed."""
    options = _parser().parse_args(arguments)
    settings = parse_settings("--set", options.set)
    from vsjax.plates.storage import check_apart, local_output

    for source in (options.input, *([] if options.statistics is None else [options.statistics])):
        check_apart(source, options.output)
    output = local_output(options.output)
    from vsjax.interop.channels import describe_data
    from vsjax.interop.conversion import convert_file
    from vsjax.interop.output import check_output, save
    from vsjax.models.registry import MODELS
    from vsjax.runtime.description import make_description

    check_output(output, options.overwrite)
    network = convert_file(options.input, options.model, settings)
    predicts_by = MODELS[network.name].predicts_by
    config = {
        "model": {"name": network.name, **network.settings},
        "task": {"name": predicts_by or "regression"},
        "dtype": "float32",
        "predict": {"tta": "none"},
    }
    data = None
    if network.parts == "all":
        channels = {"source": options.source, "target": options.target}
        normalizations = {"source": options.normalization_source, "target": options.normalization_target}
        data = describe_data(network, options.input, channels, normalizations, options.statistics, options.pixel_size)
    fields = {
        "config": config,
        "converted_from": os.fsencode(Path(options.input).absolute()).decode(errors="replace"),
        "parts": network.parts,
        **(data.described() if data else {}),
    }
    description = make_description(fields, options.statistics or options.input)
    _print_network(network)
    if data:
        _print_data(data, options.input)
    save(output, network.variables, description)
    if network.parts == "all":
        print(f"wrote {output}: python -m vsjax.predict --checkpoint {options.output} --input PLATE --output STAINED")
    elif predicts_by is None:
        print(f"wrote {output}: an encoder, which gives features and predicts nothing")
    else:
        print(f"wrote {output}: an encoder to begin training with: --config.init.checkpoint={options.output} "
              "--config.init.load=encoder")  # fmt: skip


def _print_network(network: "ConvertedNetwork") -> None:
    settings = ", ".join(f"{name} {value}" for name, value in network.settings.items())
    what = "network" if network.parts == "all" else f"{network.parts} of"
    print(f"{what} {network.name}: {settings}")
    if network.assumed:
        values = " ".join(f"{name}={network.settings[name]}" for name in network.assumed)
        print(f"assumed, since the weights do not tell (--set gives other values): {values}")


def _print_data(data: "Data", path: str) -> None:
    print(f"{path}: has the shape of {data.title}")
    for role in data.nameless:
        names = " ".join({"source": data.source, "target": data.target}[role])
        print(f"nothing tells the names of its {role} channels: {names} (--{role} gives others)")
    roles = (
        ("source", data.source, data.source_normalization),
        ("target", data.target, data.target_normalization),
    )
    for role, names, normalization in roles:
        scaled = "not" if normalization.scope == "none" else f"by {normalization.scope}/{normalization.statistic}"
        print(f"{role} {', '.join(names)}: normalised {scaled} (--{role}, --normalization-{role} give others)")
    if not data.statistics and data.target_normalization.scope != "none":
        print("predictions are in normalised units: the stains' own need --statistics, a plate that holds them")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m vsjax.convert",
        description="Convert a network of VisCy's (Lightning checkpoint, state_dict or safetensors), Palette's "
        "denoiser, a ConvNeXt V2 backbone or a ViT of DINO's or timm's into a checkpoint for vsjax.predict and "
        "vsjax.train, or for features. Nothing in the file is executed.",
    )
    parser.add_argument("--input", required=True, help=".ckpt, .pt, .pth or .safetensors")
    parser.add_argument("--output", required=True, help="folder of the checkpoint to write")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="label-free channels, in the model's order")
    parser.add_argument("--target", nargs="+", metavar="NAME", help="predicted channels, in the model's order")
    parser.add_argument("--model", metavar="NAME", help="refuse a file that holds another network")
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
