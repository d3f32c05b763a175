"""What a checkpoint says of itself: one typed document, written and read here only."""

import json
from pathlib import Path
from typing import Any

import pydantic

from vsjax.errors import UserError
from vsjax.intensity.normalization import Normalization
from vsjax.runtime.experiment import check_saved_config
from vsjax.version import __version__


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class ChannelDescription(_Document):
    """The channels of a role, in order, and how they are normalised."""

    channels: tuple[str, ...]
    normalization: Normalization


class Progress(_Document):
    """How far a run is.

    Attributes:
        best: the best validation so far; None where none was better than nothing.
        stale: validations since.
        finished: whether it ended, by its last step or early.
    """

    best: float | None = None
    stale: int = 0
    finished: bool = False


class Description(_Document):
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
    step: int = 0
    config: dict[str, Any]
    channels: dict[str, ChannelDescription] = {}
    pixel_size_um: tuple[float, ...] = ()
    statistics: dict[str, dict[str, float]] = {}
    parts: str = "all"
    converted_from: str = ""
    progress: Progress = Progress()

    def channels_of(self, role: str) -> tuple[str, ...]:
        """Names; none where there is no such role."""
        return self.channels[role].channels if role in self.channels else ()

    def at(self, step: int, progress: Progress) -> "Description":
        """The same after `step` updates."""
        return self.model_copy(update={"step": step, "progress": progress})

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return self.model_dump(mode="json")


def read_description(path: Path) -> Description:
    """The description in a JSON file.

    Raises:
        UserError: it is missing, no JSON, or not a description; the line names the file and the first field that is
            wrong.
    """
    try:
        description = Description.model_validate(json.loads(path.read_text()))
        check_saved_config(description.config, f"{path}: config")
        return description
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "document"
        raise UserError(
            f"{path}: field {name!r}: {first['msg']} ({len(error.errors())} in all), so this is not a whole checkpoint "
            "of this version of vsjax; take another one, or train or convert again"
        ) from error
    except UserError as error:  # a normalisation that does not exist
        raise UserError(f"{path}: {error}, so this is not a whole checkpoint; take another one") from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: cannot be read ({reason}); the checkpoint is half written, take another") from error
