"""Predicting a whole plate."""

from collections.abc import Sequence
from pathlib import Path

from vsjax.inference.prediction_step import PredictionStep
from vsjax.inference.predictor import PredictionSettings, Predictor
from vsjax.plates.derived import Listener, PlateSummary, make_plate


def predict_plate(
    predictor: Predictor,
    input_url: str | Path,
    output_url: str | Path,
    *,
    positions: Sequence[str] | None = None,
    source_channels: Sequence[str] | None = None,
    masks: Sequence[str] = (),
    settings: PredictionSettings | None = None,
    ngff_version: str | None = None,
    overwrite: bool = False,
    process: int = 0,
    processes: int = 1,
    listener: Listener | None = None,
) -> PlateSummary:
    """Predict every time point of every position of a plate (or of a single image).

    Batches never span two stacks. Called again after an interruption with the same arguments, it resumes.

    Args:
        predictor: from `load`.
        source_channels: what the plate calls the model's source channels, where it has other names for them.
        masks: names of the labels that are masks of the stains, for a sampler with masks=given.
        settings: how to predict.
        input_url, output_url, positions, ngff_version, overwrite, process, processes, listener: see `make_plate`.

    Raises:
        UserError: before anything is written: a position, channel or statistics are missing, a stack is shallower than
            the network's input, the output is there. Later: an image cannot be read, the output cannot be written.
    """
    return make_plate(
        PredictionStep(predictor, settings or PredictionSettings(), source_channels, masks),
        input_url,
        output_url,
        positions=positions,
        ngff_version=ngff_version,
        overwrite=overwrite,
        process=process,
        processes=processes,
        listener=listener,
    )
