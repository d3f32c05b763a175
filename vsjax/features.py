"""What the stages of a trained network see, as colours: `python -m vsjax.features --checkpoint runs/a --input P.zarr
--output features.png`.

Principal components of its features (Liu et al. 2025, "Model visualization", Figures S6, S10 and S12): red, green and
blue are a stage's first three, each scaled by its own range; the title says how much of the stage's variance they hold.
"""

import argparse
from pathlib import Path

from vsjax.errors import UserError
from vsjax.program import Parser, run_program, whole

MOST_STAGES, MOST_TARGETS = 64, 8  # that a picture shows
_PNG = b"\x89PNG\r\n\x1a\n"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compute one window, and draw."""
    options = _parser().parse_args(arguments)
    from vsjax.plates.storage import check_apart, local_output

    for source in (f"{options.checkpoint}/checkpoints", options.input):
        check_apart(source, options.output)
    output = local_output(options.output)
    _check_output(output, options.overwrite)
    from vsjax.evaluation.feature_maps import capture_features, read_window
    from vsjax.evaluation.feature_pictures import draw, picture_slices, picture_stage
    from vsjax.inference.predictor import Predictor
    from vsjax.models.registry import network_of
    from vsjax.plates.reader import open_plate
    from vsjax.runtime.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(options.checkpoint)
    predictor = Predictor(checkpoint)
    model = network_of({**checkpoint.description.config, "dtype": "float32"})
    plate = open_plate(options.input)
    position = plate[options.position] if options.position else plate.first_position()
    z = position.shape[2] // 2 if options.z is None else options.z
    window, at = read_window(position, predictor, options.source or predictor.source_channels, z, options.crop)
    stages = tuple(dict.fromkeys(options.stages or model.stages))
    if len(stages) > MOST_STAGES:
        raise UserError(f"--stages: names {len(stages)}; name at most {MOST_STAGES}, which a picture can show")
    features, prediction = capture_features(model, checkpoint.variables, window, stages)
    depth = window.shape[1]
    pictures = {name: picture_stage(name, features[name], at, depth) for name in stages}
    encodes = {name: name.split("/")[0] in model.parts["encoder"] for name in stages}
    above = picture_slices(window[0, ..., :1], predictor.source_channels[:1], at, depth)
    above += [pictures[name] for name in stages if encodes[name]]
    below = [pictures[name] for name in stages if not encodes[name]]
    shown = predictor.target_channels[:MOST_TARGETS]
    below += picture_slices(prediction, [f"{name} (prediction)" for name in shown], at, depth)
    about = f"{position.url}, z = {z}; {options.checkpoint}"
    draw(output, (above, below), position.pixel_size_um[1:], window.shape[2:4], about)
    print(f"{len(stages)} stages of {options.checkpoint} into {output}")


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists; choose another --output, or --overwrite")
    if output.exists() and not (output.is_file() and output.open("rb").read(len(_PNG)) == _PNG):
        raise UserError(f"{output}: is no picture, so --overwrite spares it; choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it or choose another --output")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m vsjax.features", description="Draw what the stages of a trained network see, as colours."
    )
    parser.add_argument("--checkpoint", required=True, help="folder of a run or of converted weights")
    parser.add_argument("--input", required=True, help="OME-Zarr plate or image")
    parser.add_argument("--position", metavar="A/1/0", help="by default the first")
    parser.add_argument("--output", required=True, help="PNG to write")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="such as encoder_0 decoder/stage_1 (all)")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="the plate's names of the model's source channels")
    parser.add_argument("--z", type=whole(0, 2**20), help="slice to show (the middle)")
    parser.add_argument(
        "--crop", nargs=2, type=whole(1, 2**15), metavar=("Y", "X"), help="pixels, of the middle (512 512)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the picture that is there")
    return parser


if __name__ == "__main__":
    run_program("features", main)
