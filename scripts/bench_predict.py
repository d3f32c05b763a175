"""Prediction of each family, measured beside VisCy's: a bare forward pass, and from plate to plate.

    python -m scripts.bench_predict --rows unext2 vscyto2d --dtype float32 bfloat16
    python -m scripts.bench_predict --what plate --against viscy --peer-python /path/to/python --markdown
    python -m scripts.bench_predict --what forward --device-preset gpu

A forward pass is the network on one window that lies on the device. From plate to plate is reading, normalising, every
z window, blending and writing, as `vsjax.predict` and `viscy predict` do it; both sides predict with the same weights,
and what they have written is compared. vsjax is measured against its own bare forward pass of the same windows too."""

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

from scripts.benchmarking.families import FAMILIES, Family
from scripts.benchmarking.report import add_flags, best_rates, checked, row, show, write
from scripts.benchmarking.rounds import ask, compare, viscy_side, vsjax_side

PREDICTED = {name: family for name, family in FAMILIES.items() if not family.masked}
GPU = {"planes": [2048], "plate_plane": 2048, "dtype": ["bfloat16"]}
DEEPER = 2  # slices of the plate's stacks beyond a window, which make as many more windows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure the rows that the flags name, print and write them."""
    options = _options(arguments)
    rows = []
    for name in options.rows:
        for dtype in options.dtype:
            if "forward" in options.what:
                for plane in options.planes:
                    rows.append(measure_forward(name, plane, dtype, options))
                    show(rows[-1])
            if "plate" in options.what:
                rows.append(measure_plate(name, dtype, options))
                show(rows[-1])
    write(options, "predict", rows)
    return rows


def measure_forward(name: str, plane: int, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: the network alone."""
    family, request = _request(name, plane, dtype, options)
    sides = [vsjax_side("forward", request)]
    if options.against and family.viscy:
        sides.append(viscy_side("forward", request, options))
    found = compare(sides, rounds=options.rounds, warmup=options.warmup, repeats=options.repeats)
    found = [{"dtype": dtype, **side} for side in found]
    size = " x ".join([str(family.batch), str(tuple(family.patch))])
    work = f"forward {name}, {size}, {dtype}"
    return row(f"forward {name}", work, found, best_rates(found, on_host=found[0]["device_peak"] is None))


def measure_plate(name: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: plate to plate, once in each turn; preparing has done it once before."""
    family, request = _request(name, options.plate_plane, dtype, options)
    depth, *plane = family.patch
    shape = (1, depth + DEEPER, *plane)
    windows = options.positions * (DEEPER + 1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        request |= {"folder": folder, "positions": options.positions, "shape": shape, "chunks": (1, 1, *shape[1:])}
        request |= ask(vsjax_side("plate", request), "plate", "settings")
        theirs = []
        if options.against and family.viscy:
            request |= ask(viscy_side("weights", request, options), "weights")
            other = {"batch": options.peer_batch, "workers": options.peer_workers, "predicts": True}
            theirs.append(viscy_side("predict", {**request, **other}, options))
        ours = [vsjax_side("predict", request), vsjax_side("forward", request)]
        found = compare([*ours, *theirs], rounds=options.rounds, warmup=0, repeats=1)
        agreement = _agreement(found[0]["output"], found[2]["output"]) if theirs else None
    bare = found.pop(1)
    found[0] |= {
        "dtype": dtype,
        "bare_seconds": windows * bare["seconds"]["median"],
        "work": {key: windows * value for key, value in bare["work"].items()},
    }
    work = f"plate {name}, {options.positions} FOVs of {shape[1:]}, {dtype}"
    rates = best_rates([bare], on_host=found[0]["device_peak"] is None)
    overhead = found[0]["seconds"]["median"] / found[0]["bare_seconds"] - 1
    return row(f"plate {name}", work, found, rates) | {"over_bare": overhead, "agreement": agreement}


def _agreement(ours: str, theirs: str) -> dict[str, float]:
    from scripts.benchmarking.agreement_vsjax import agreement  # here, so that this process imports vsjax only for it

    return agreement(ours, theirs)


def _request(name: str, plane: int, dtype: str, options: argparse.Namespace) -> tuple[Family, dict[str, Any]]:
    depth = PREDICTED[name].patch[0]
    family = PREDICTED[name].with_sizes((depth, plane, plane), 1)
    return family, {"family": family.to_json(), "dtype": dtype, "seed": options.seed, "mode": options.mode}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, PREDICTED, default=["unext2"])
    add = parser.add_argument
    add("--what", nargs="+", choices=["forward", "plate"], default=["forward", "plate"], help="%(default)s")
    add("--planes", nargs="+", type=int, default=[512, 1024], help="pixels in Y and X of a forward pass (%(default)s)")
    add("--plate-plane", type=int, default=512, help="pixels in Y and X of the plate's images (%(default)s)")
    add("--positions", type=int, default=3, help="of the plate (%(default)s)")
    add("--folder", help="where the plates are written and deleted again; by default the system's temporary folder")
    add("--peer-batch", type=int, default=1, help="windows per call of VisCy's network, plate to plate (%(default)s)")
    add("--peer-workers", type=int, default=2, help="processes that read for it (%(default)s)")
    add("--device-preset", choices=["gpu"], help="gpu: planes of 2048 in bfloat16")
    options = checked(parser, arguments)
    if options.device_preset:
        vars(options).update(GPU)
    return options


if __name__ == "__main__":
    main()
