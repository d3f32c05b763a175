"""How a predicted stain is judged in validation: the metrics that the report of an evaluation begins with."""

from collections.abc import Mapping, Sequence

import jax

from vsjax import metrics
from vsjax.tasks.task import MetricSpec


def image_metrics(channels: Sequence[str]) -> dict[str, MetricSpec]:
    """What they are, each with a column for each stain."""
    columns = tuple(channels)
    return {
        "pearson": MetricSpec(maximise=True, columns=columns, partial=True),
        "ssim": MetricSpec(maximise=True, columns=columns, partial=True),
        "mae": MetricSpec(columns=columns),
    }


def judge_images(prediction: jax.Array, target: jax.Array) -> Mapping[str, jax.Array]:
    """Their values, `[B, C]` each, of images `[B, Z, Y, X, C]`."""
    return {
        "pearson": metrics.pearson(prediction, target),
        "ssim": metrics.ssim(prediction, target),
        "mae": metrics.mae(prediction, target),
    }
