"""Simulate a plate: `python -m vsjax.simulate --output P.zarr --positions 12`."""

import argparse
from typing import Any

from vsjax.program import Parser, run_program, whole


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, simulate and write."""
    options = _parser().parse_args(arguments)
    from vsjax.schema import parse
    from vsjax.simulation import SimulationConfig, write_plate

    microscope = {"objective_na": options.objective_na, "condenser_na": options.condenser_na}
    given = {
        "shape": options.shape,
        "pixel_size_um": options.pixel_size,
        "seed": options.seed,
        "cells": options.cells,
        "time_points": options.time_points,
        "channels": options.channels,
        "microscope": _without_none(microscope),
    }
    config = parse(SimulationConfig, _without_none(given), "command line: settings", "see --help")
    write_plate(
        options.output,
        config,
        options.positions,
        ngff_version=options.ngff,
        overwrite=options.overwrite,
        threads=options.threads,
    )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vsjax.simulate", description="Write a plate of simulated cells.")
    parser.add_argument("--output", required=True, help="the plate to write, e.g. P.zarr")
    parser.add_argument("--positions", type=whole(1, 10**5), default=12, help="fields of view (default: 12)")
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels of each (default: 12 256 256)"
    )
    parser.add_argument(
        "--pixel-size", type=float, nargs=3, metavar=("Z", "Y", "X"), help="in µm (default: 1 0.325 0.325)"
    )
    parser.add_argument("--seed", type=int, help="of everything random (default: 0)")
    parser.add_argument("--cells", type=int, help="cells per FOV, on average (default: 55 %% of the area)")
    parser.add_argument("--time-points", type=int, help="of each field of view (default: 1)")
    parser.add_argument(
        "--channels", nargs="+", help="of BF, Phase, nuclei, membrane (these) and organelles; uint16 without Phase"
    )
    parser.add_argument("--objective-na", type=float, help="of the microscope (default: 0.55)")
    parser.add_argument("--condenser-na", type=float, help="of the microscope (default: 0.4)")
    parser.add_argument("--ngff", choices=("0.4", "0.5"), default="0.5", help="OME-NGFF version (default: 0.5)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--threads", type=whole(1, 256), help="positions simulated at the same time (default: up to 4)")
    return parser


if __name__ == "__main__":
    run_program("simulate", main)
