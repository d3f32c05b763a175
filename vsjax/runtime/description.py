"""What a checkpoint says of itself: one typed document, written and read here only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic

from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization
from vsjax.plates.statistics_attribute import LARGEST_VALUE
from vsjax.runtime.experiment import check_saved_config
from vsjax.runtime.manifest import read_file
from vsjax.schema import Document, Name, Names, parse, parse_object, with_tuples
from vsjax.tasks.optimizer import LARGEST_STEP
from vsjax.version import __version__

_REMEDY = "take another checkpoint, or train or convert again"
# What `vsjax.preprocess` and VisCy write.
_Statistic = Literal["min", "max", "mean", "std", "median", "iqr", "p5", "p95", "p95_p5", "p1", "p99", "p99_p1"]
_Size = Annotated[float, pydantic.Field(gt=0)]
_Value = Annotated[float, pydantic.Field(ge=-2 * LARGEST_VALUE, le=2 * LARGEST_VALUE)]


class ChannelDescription(Document):
    """The channels of a role, in order, and how they are normalised."""

    channels: Names
    normalization: Normalization


class Progress(Document):
    """How far a run is.

    Attributes:
        best: the best validation so far; None where none was better than nothing.
        stale: validations since.
        finished: whether it ended, by its last step or early.
    """

    best: float | None = None
    stale: int = pydantic.Field(default=0, ge=0)
    finished: bool = False


class Description(Document):
    """All that prediction and a restart need to know beside the arrays.

    Attributes:
        vsjax_version: that wrote it.
        step: updates that were done.
        config: the experiment's, completed; `config["model"]` and `config["task"]` make what predicts.
        channels: of each role that has some; those of `source` and `target` in the order of the network's.
        pixel_size_um: (z, y, x) of the training plates; empty where it is not known.
        statistics: of the training plates, by channel; empty where they are not known.
        parts: "all", or the part of the network that the checkpoint holds.
        converted_from: the file of other software that it was made from.
        progress: of the run.
    """

    vsjax_version: str = __version__
    step: int = pydantic.Field(default=0, ge=0, le=LARGEST_STEP)
    config: dict[str, Any]
    channels: dict[Name, ChannelDescription] = pydantic.Field(default={})
    pixel_size_um: tuple[_Size, ...] = ()
    statistics: dict[Name, dict[_Statistic, _Value]] = pydantic.Field(default={})
    parts: Name = "all"
    converted_from: str = ""
    progress: Progress = Progress()

    @pydantic.field_validator("pixel_size_um")
    @classmethod
    def _of_three_axes(cls, sizes: tuple[float, ...]) -> tuple[float, ...]:
        if len(sizes) not in (0, 3):
            raise ValueError("there must be three, of Z, Y and X, or none")
        return sizes

    def channels_of(self, role: str) -> tuple[str, ...]:
        """Names; none where there is no such role."""
        return self.channels[role].channels if role in self.channels else ()

    def at(self, step: int, progress: Progress) -> "Description":
        """The same after `step` updates."""
        return self.model_copy(update={"step": step, "progress": progress})

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return self.model_dump(mode="json")


def make_description(fields: Mapping[str, Any], where: str) -> Description:
    """The description of a new checkpoint; of statistics those that are known.

    Args:
        fields: of `Description`.
        where: they come from, for the message.

    Raises:
        UserError: one does not fit, such as statistics that are text.
    """
    known = get_args(_Statistic)
    statistics = {
        channel: {name: value for name, value in values.items() if name in known}
        for channel, values in fields.get("statistics", {}).items()
    }
    remedy = "run python -m vsjax.preprocess on the plates again"
    return parse(Description, {**fields, "statistics": statistics}, where, remedy)


def read_description(path: Path) -> Description:
    """The description in a JSON file.

    Raises:
        UserError: it is missing, no JSON, or not a description; the line names the file and the first field that is
            wrong.
    """
    description = parse(Description, parse_object(read_file(path), str(path), _REMEDY), str(path), _REMEDY)
    check_saved_config(description.config, f"{path}: config")
    for role, said in description.channels.items():
        configured = description.config.get("roles", {}).get(role, {})
        if "channels" in configured and with_tuples(configured) != with_tuples(said.model_dump()):
            raise UserError(f"{path}: channels.{role}: differs from config.roles.{role}; {_REMEDY}")
    return description
