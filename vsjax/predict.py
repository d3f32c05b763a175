"""Stain a plate with a trained model: `python -m vsjax.predict --checkpoint runs/a --input P.zarr --output S.zarr`."""

import argparse

from vsjax.program import Parser, ProgressBar, add_process_flags, parse_settings, run_program, which_process


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    options = _parser().parse_args(arguments)
    process, processes = which_process(options)
    from vsjax.plates.storage import check_apart

    for run in filter(None, (options.checkpoint, options.start, options.features)):
        check_apart(f"{run}/checkpoints", options.output)
    from vsjax.inference.plates import predict_plate
    from vsjax.inference.predictor import load
    from vsjax.inference.settings import PredictionSettings, change_sampler

    predictor = load(options.checkpoint, options.which, start=options.start, features=options.features)
    settings = PredictionSettings(
        tta=options.tta,
        tile=tuple(options.tile) if options.tile else None,
        margin=options.margin,
        z_step=options.z_step,
        batch_size=options.batch_size,
        units=options.units,
        space=options.space,
        draws=options.draws,
        seed=options.seed,
        sampler=change_sampler(predictor.sampler, parse_settings("--sampler", options.sampler)),
    )
    summary = predict_plate(
        predictor,
        options.input,
        options.output,
        positions=options.positions,
        source_channels=options.source,
        masks=options.masks,
        settings=settings,
        ngff_version=None if options.ngff == "same" else options.ngff,
        overwrite=options.overwrite,
        process=process,
        processes=processes,
        listener=ProgressBar(),
    )
    targets = ", ".join(predictor.target_channels)
    print(f"predicted {targets} of {summary.made} positions into {options.output}")
    if processes > 1:
        state = "is complete" if summary.complete else "is not complete yet, the other processes go on"
        print(f"process {process} of {processes} is done; {options.output} {state}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m vsjax.predict",
        description="Predict every time point of every position of an OME-Zarr plate or image. Interrupted, the same "
        "command resumes; positions that are finished are not computed again.",
    )
    parser.add_argument("--checkpoint", required=True, help="folder of a run or of converted weights")
    parser.add_argument("--input", required=True, help="OME-Zarr plate or image: a path, gs://, s3:// or http://")
    parser.add_argument("--output", required=True, help="OME-Zarr plate or image to write")
    parser.add_argument("--which", choices=["best", "last"], help="checkpoint of the run (best where there is one)")
    parser.add_argument("--positions", nargs="+", metavar="A/1/0", help="only these positions")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="the plate's names of the model's source channels")
    parser.add_argument(
        "--tta", choices=["none", "mean", "median"], help="combine four rotations (what the experiment's config says)"
    )
    parser.add_argument(
        "--tile",
        nargs=2,
        type=int,
        metavar=("Y", "X"),
        help="pixels of a tile with its margins (the whole field of view, if it fits the memory)",
    )
    parser.add_argument(
        "--margin", type=int, metavar="PIXELS", help="tiles overlap by twice this; chosen by the network"
    )
    parser.add_argument(
        "--space",
        type=int,
        metavar="N",
        help="devices that share a field of view and stain it as one image (one, or all where it does not fit one)",
    )
    parser.add_argument("--z-step", type=int, default=1, help="slices from one z window to the next (%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="windows, of z and of tiles, per call of the network"
    )
    parser.add_argument("--ngff", choices=["same", "0.4", "0.5"], default="same", help="version of the output")
    parser.add_argument(
        "--units",
        choices=["normalized", "target"],
        default="normalized",
        help="as trained, or the intensities of the training plates' target channels",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete the output that is there")
    _add_draw_flags(parser)
    add_process_flags(parser)
    return parser


def _add_draw_flags(parser: Parser) -> None:
    """Those of models that draw."""
    parser.add_argument(
        "--draws",
        type=int,
        default=1,
        metavar="N",
        help="of a model that draws: predict N times, keep mean and spread",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    parser.add_argument(
        "--sampler", nargs="+", default=[], metavar="NAME=VALUE", help="the model's own settings, such as steps=50"
    )
    parser.add_argument(
        "--masks", nargs="+", default=[], metavar="LABEL", help="with --sampler masks=given: a label of each stain"
    )
    parser.add_argument("--start", metavar="RUN", help="of a diffusion: a regression whose stains it starts from")
    parser.add_argument(
        "--features", metavar="RUN", help="of a diffusion: an encoder that finds the structures for masks=nsc"
    )


if __name__ == "__main__":
    run_program("predict", main)
