"""What a plate of predictions says of them, for those who compare them with stains: written and read here only."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from vsjax.plates.derived_record import parse_attribute, read_position_record
from vsjax.plates.position import Position
from vsjax.plates.step import RECORD_ATTRIBUTE

_KEY = "prediction"  # in the record's `about`


class _Typed(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class CheckpointRecord(_Typed):
    """Which weights made it.

    Attributes:
        path: of the checkpoint.
        step: of the training; None for converted weights.
        fingerprint: of the weights.
    """

    path: str
    step: int | None
    fingerprint: str


class Affine(_Typed):
    """What turns a target's own units into normalised ones: (x - location) / scale."""

    location: FiniteFloat
    scale: FiniteFloat


class PredictionRecord(_Typed):
    """What was predicted, by which weights, in which units.

    Attributes:
        checkpoint: which weights.
        source_channels: of the input plate, that were predicted from.
        units: of the pixels: "normalized" as trained, or "target".
        normalization: by target; empty where the checkpoint does not know the stains' statistics.
    """

    checkpoint: CheckpointRecord
    source_channels: list[str]
    units: Literal["normalized", "target"]
    normalization: dict[str, Affine]

    def about(self) -> dict[str, Any]:
        """The part of a derived plate's record that `read_prediction_record` finds."""
        return {_KEY: self.model_dump()}


def read_prediction_record(position: Position) -> PredictionRecord | None:
    """What an image says of its prediction; None where `vsjax.predict` did not make it.

    Raises:
        UserError: a field is missing or of the wrong type.
    """
    record = read_position_record(position)
    found = record and record.about.get(_KEY)
    return parse_attribute(PredictionRecord, found, position.where, f"{RECORD_ATTRIBUTE}.about.{_KEY}")
