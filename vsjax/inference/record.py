"""What a plate of predictions says of them, for those who compare them with stains: written and read here only."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from vsjax.plates.derived_record import parse_attribute, read_position_record
from vsjax.plates.position import Position
from vsjax.plates.step import RECORD_ATTRIBUTE
from vsjax.schema import Document

_KEY = "prediction"  # in the record's `about`


class CheckpointRecord(Document):
    """Which weights made it."""

    path: str = Field(description="of the checkpoint")
    step: NonNegativeInt | None = Field(description="of the training; null for converted weights")
    fingerprint: str = Field(description="of the weights")


class Affine(Document):
    """What turns a target's own units into normalised ones: (x - location) / scale."""

    location: float
    scale: PositiveFloat


class Resolved(Document):
    """How the stacks of a group are cut: chosen when one was first predicted, see `PlateRecord.resolved`."""

    tile: tuple[PositiveInt, PositiveInt]
    batch_size: PositiveInt = Field(description="windows per call of the network")
    space: PositiveInt = Field(description="devices that share a field of view")


class PredictionRecord(Document):
    """What was predicted, by which weights, in which units."""

    checkpoint: CheckpointRecord
    source_channels: tuple[str, ...] = Field(description="of the input plate, that were predicted from")
    units: Literal["normalized", "target"] = Field(description="of the pixels: as trained, or the stains' own")
    normalization: dict[str, Affine] = Field(
        description="by target; empty where the checkpoint does not know the stains' statistics"
    )

    def about(self) -> dict[str, Any]:
        """The part of a derived plate's record that `read_prediction_record` finds."""
        return {_KEY: self.model_dump(mode="json")}


def read_prediction_record(position: Position) -> PredictionRecord | None:
    """What an image says of its prediction; None where `vsjax.predict` did not make it.

    Raises:
        UserError: a field is missing or of the wrong type.
    """
    record = read_position_record(position)
    found = record and record.about.get(_KEY)
    return parse_attribute(PredictionRecord, found, position.where, f"{RECORD_ATTRIBUTE}.about.{_KEY}")
