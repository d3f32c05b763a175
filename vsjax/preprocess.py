"""Prepare a plate: `python -m vsjax.preprocess [STEP] --plate P.zarr ...`.

    statistics   intensity statistics, written into the plate's attributes; what is done where no step is named
    equalize     a new plate with channels equalised (CLAHE) beside all the others
    masks        a new plate with a label NAME_mask for each of some channels: what is stained there

`--config configs/preprocess_vsneuromast.py --plate P.zarr --output Q.zarr`: several steps in memory, one new plate."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from vsjax.errors import UserError, shorten
from vsjax.program import Parser, ProgressBar, add_process_flags, parse_flags, real, run_program, which_process, whole

if TYPE_CHECKING:
    from vsjax.intensity.statistics import StatisticsSettings
    from vsjax.plates.statistics_attribute import Statistics
    from vsjax.plates.step import Step

PROGRAM = "python -m vsjax.preprocess"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do the step that it names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument == "--config" or argument.startswith("--config=") for argument in arguments):
        _follow_config(arguments)
        return
    name = "statistics"
    if arguments and arguments[0] in COMMANDS:
        name = arguments.pop(0)
    elif arguments and not arguments[0].startswith("-"):
        raise UserError(f"command line: there is no step {arguments[0]!r}; choose one of {', '.join(COMMANDS)}")
    COMMANDS[name](arguments)


def _statistics(arguments: Sequence[str]) -> None:
    parser = _parser("statistics", "Write intensity statistics into a plate's attributes.", epilog=__doc__)
    parser.add_argument("--plate", required=True, help="OME-Zarr plate or image; written to: its attributes only")
    parser.add_argument("--channels", nargs="+", help="names of channels (default: all)")
    parser.add_argument(
        "--grid", type=whole(1, 2**15), default=32, help="distance of the sampled pixels in Y and X (default: 32)"
    )
    parser.add_argument("--workers", type=whole(1, 256), default=8, help="reads under way at once (default: 8)")
    add_process_flags(parser)
    options = parser.parse_args(arguments)
    from vsjax.intensity.statistics import StatisticsSettings
    from vsjax.schema import parse

    given = {name: getattr(options, name) for name in StatisticsSettings.model_fields}
    settings = parse(StatisticsSettings, given, "command line: statistics", f"see {PROGRAM} statistics --help")
    _write_statistics(options.plate, which_process(options), settings)


def _equalize(arguments: Sequence[str]) -> None:
    parser = _parser(
        "equalize",
        "Write a new plate: all channels, and NAME_clahe for each that is named; labels and coarser resolutions are "
        "left out. Interrupted, the same command resumes.",
    )
    parser.add_argument("--channels", nargs="+", required=True, metavar="NAME", help="channels to equalise")
    parser.add_argument(
        "--kernel",
        nargs=3,
        type=whole(1, 2**15),
        default=(5, 32, 32),
        metavar=("Z", "Y", "X"),
        help="voxels (default: 5 32 32)",
    )
    parser.add_argument(
        "--clip-limit", type=real(0, 1), default=0.01, help="0 to 1, more is more contrast (default: 0.01)"
    )
    _add_plate_flags(parser)
    options = parser.parse_args(arguments)
    from vsjax.steps import make_step

    settings = {name: getattr(options, name) for name in ("channels", "kernel", "clip_limit")}
    step = make_step({"name": "equalize", **settings})
    if _make(step, options):
        print(f"{options.output}: written; now its statistics: {PROGRAM} --plate {options.output}")


def _masks(arguments: Sequence[str]) -> None:
    parser = _parser(
        "masks",
        "Write a new plate: all channels as they are, and a label NAME_mask for each that is named; other labels and "
        "coarser resolutions are left out. Interrupted, the same command resumes.",
    )
    add = parser.add_argument
    add("--channels", nargs="+", required=True, metavar="NAME", help="channels to mask")
    add("--method", choices=("nsc", "threshold"), help="spectral clustering of patches (default), or local thresholds")
    add("--features", metavar="RUN", help="folder of a run or of converted weights (DINO's too); default: intensity")
    add("--stage", metavar="NAME", help="of its network, such as encoder_1 (default: the network's choice)")
    add("--anchor", metavar="A/1/0", help="position to which all clusters are matched (default: the first)")
    add("--seed", type=whole(0, 2**31 - 1), help="of the clustering (default: 0)")
    add("--tile", type=whole(8, 4096), help="pixels in Y and X that are clustered at once (default: 224)")
    add("--eigenvectors", type=whole(1, 64), help="of the patches' graph (default: 5)")
    add("--clusters", type=whole(2, 64), help="of patches (default: 5)")
    add("--least-pixels", type=whole(1, 2**31 - 1), help="of a cluster that is foreground (default: 100)")
    add("--foreground", choices=("split", "brightest"), help="clusters above the best split (default), or one")
    add("--window", type=whole(3, 4095), help="threshold: pixels in Y and X of the surroundings, odd (default: 51)")
    add("--weights", choices=("gaussian", "mean"), help="threshold: of the surroundings (default: gaussian)")
    add("--offset", type=real(-1e6, 1e6), help="threshold: above their mean, in the image's deviations (default: 0.2)")
    _add_plate_flags(parser)
    options = parser.parse_args(arguments)
    from vsjax.inference.mask_step import MaskStep, parse_settings

    settings = parse_settings({name: value for name, value in vars(options).items() if value is not None})
    if _make(MaskStep(settings, options.plate), options):
        print(f"{options.output}: written, with the labels {', '.join(f'{name}_mask' for name in settings.channels)}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "statistics": _statistics,
    "equalize": _equalize,
    "masks": _masks,
}


def _follow_config(arguments: Sequence[str]) -> None:
    """Apply the steps of `--config FILE` (and `--config.FIELD=VALUE`) in memory; write the last one's plate."""
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # flags that are not the config's may stand before it
    config_flags.DEFINE_config_file("config", flag_values=known, sys_argv=[PROGRAM, *arguments])
    example = {"config": "configs/preprocess_vsneuromast.py"}
    config, rest = parse_flags(known, [PROGRAM, *arguments], example, known_only=True)
    parser = _parser("", "Apply the steps of a config one after the other and write a new plate.")
    parser.add_argument("--config", help="such as configs/preprocess_vsneuromast.py")
    _add_plate_flags(parser)
    options = parser.parse_args(rest)
    from vsjax.intensity.statistics import StatisticsSettings
    from vsjax.plates.step import chain
    from vsjax.schema import read_section
    from vsjax.steps import channels_made, make_step

    for field in ("steps", "statistics"):
        if field not in config:
            raise UserError(f"--config: has no field {field!r}; see configs/preprocess_vsneuromast.py")
    if unknown := set(config) - {"steps", "statistics"}:
        raise UserError(f"config.{shorten(min(unknown))}: there is no such field; there are steps, statistics")
    statistics = config.statistics and read_section(StatisticsSettings, config.statistics, "config.statistics")
    if not isinstance(config.steps, list | tuple) or not config.steps:
        raise UserError("config.steps: is no list of steps; see configs/preprocess_vsneuromast.py")
    step = chain([make_step(section) for section in config.steps])
    made = _make(step, options, skip_complete=bool(statistics))  # it may have been stopped at the statistics
    if statistics:
        # By name, so that no image of another process is read, which may not be there yet.
        channels = channels_made(step, options.plate, statistics.channels)
        settings = statistics.model_copy(update={"channels": tuple(channels)})
        _write_statistics(options.output, which_process(options), settings)
    elif made:
        print(f"{options.output}: written")


def _parser(name: str, description: str, **more: Any) -> argparse.ArgumentParser:
    prog = f"{PROGRAM} {name}".strip()
    layout = argparse.RawDescriptionHelpFormatter
    return Parser(prog=prog, description=description, formatter_class=layout, **more)


def _add_plate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plate", required=True, help="OME-Zarr plate or image to read")
    parser.add_argument("--output", required=True, help="OME-Zarr plate or image to write")
    parser.add_argument("--overwrite", action="store_true", help="delete the output that is there")
    add_process_flags(parser)


def _make(step: "Step", options: argparse.Namespace, skip_complete: bool = False) -> bool:
    """Make the plate, or this process's share of it; whether it is complete."""
    from vsjax.plates.derived import make_plate

    process, processes = which_process(options)
    summary = make_plate(
        step,
        options.plate,
        options.output,
        overwrite=options.overwrite,
        skip_complete=skip_complete,
        process=process,
        processes=processes,
        listener=ProgressBar(),
    )
    if not summary.complete:
        print(f"process {process} of {processes} is done; {options.output} is not complete yet, the others go on")
    return summary.complete


def _write_statistics(url: str, which: tuple[int, int], settings: "StatisticsSettings") -> None:
    """Write the statistics, or this process's part of them, and print a table of the dataset's."""
    from vsjax.intensity.statistics import write_statistics
    from vsjax.plates.reader import open_plate

    process, processes = which
    progress = functools.partial(tqdm, unit=" FOV")
    found = write_statistics(open_plate(url), progress=progress, process=process, processes=processes, **dict(settings))
    if found is None:
        print(f"process {process} of {processes} is done; the statistics are written when the others are")
    else:
        print(table(found))


def table(statistics: dict[str, "Statistics"]) -> str:
    """A table of dataset statistics, one line per channel."""
    fields = ("median", "iqr", "mean", "std", "min", "max", "p1", "p99")
    width = max(len("channel"), *(len(name) for name in statistics))
    lines = [f"{'channel':<{width}}" + "".join(f"{field:>12}" for field in fields)]
    for name, values in statistics.items():
        lines.append(f"{name:<{width}}" + "".join(f"{values[field]:>12.5g}" for field in fields))
    return "\n".join(lines)


if __name__ == "__main__":
    run_program("preprocess", main)
