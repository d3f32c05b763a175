"""An experiment's config as one typed document: every field has a type, a range and a reason, and a wrong one is
refused before data are touched. A section stands beside the code that it is for; those of the run itself are here."""

from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict
from pydantic import Field, SerializeAsAny

from vsjax.data.augment_config import AugmentConfig
from vsjax.data.roles import ChannelRole, LabelRole, MetadataRole, make_roles
from vsjax.data.settings import DataSettings
from vsjax.errors import UserError, shorten
from vsjax.models.registry import COMPUTE_TYPES, network_document
from vsjax.runtime.mesh import MeshSettings
from vsjax.schema import CONFIG_REMEDY, Document, Name, parse
from vsjax.tasks.optimizer import LARGEST_STEP, OptimizerSettings
from vsjax.tasks.registry import find_task

Tta = Literal["none", "mean", "median"]


class InitSettings(Document):
    """`config.init`: weights to begin with."""

    checkpoint: str = Field("", max_length=4096, description="folder of a run or of converted weights; empty: random")
    which: Literal["", "best", "last"] = Field("", description="empty for the best where the run validated")
    load: Name = Field("all", description='parts that are taken: "encoder", "encoder+decoder" or "all"')
    freeze: str = Field(
        "", max_length=4096, description='parts that do not learn: "encoder", "encoder+decoder" or empty'
    )


class TrainSettings(Document):
    """`config.train`: the loop."""

    steps: int = Field(10_000, ge=1, le=LARGEST_STEP, description="updates, counted in 32 bits")
    epochs: int = Field(
        0,
        ge=0,
        le=10**6,
        description="above 0 it decides the steps; an epoch sees as many patches as there are z windows",
    )
    accumulate: int = Field(
        1, ge=1, le=2**16, description="parts in which a batch is computed, one after the other, to save memory"
    )
    log_every: int = Field(20, ge=1, le=LARGEST_STEP, description="steps from one line of metrics to the next")
    validate_every: int = Field(500, ge=1, le=LARGEST_STEP, description="steps from one validation to the next")
    save_every: int = Field(500, ge=1, le=LARGEST_STEP, description="steps from one checkpoint to the next")
    best: Name = Field(
        "loss", description='validation metric that decides the best checkpoint, such as "pearson/nuclei"'
    )
    patience: int = Field(
        0,
        ge=0,
        le=LARGEST_STEP,
        description="validations without a better one after which the run ends; 0 never ends it early",
    )


class PredictSettings(Document):
    """`config.predict`: how the weights predict where nothing else is said."""

    tta: Tta = Field("none", description="test-time augmentation: of four rotations nothing, the mean or the median")


class Experiment(Document):
    """The whole. `model` and `task` are documents of the network and the task that their `name` says
    (`models.registry.network_document`, `tasks.registry.find_task`)."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="of everything random; keys have 32 bits")
    task: SerializeAsAny[Document] = Field(description="what is trained: its name and settings")
    dtype: Literal[tuple(COMPUTE_TYPES)] = Field(
        "float32", description='of the network\'s arithmetic; "bfloat16" on accelerators'
    )
    model: SerializeAsAny[Document] = Field(description="the network: its name and settings")
    init: InitSettings = InitSettings()
    roles: dict[Name, ChannelRole | LabelRole | MetadataRole] = Field(description="what a batch holds, by name")
    data: DataSettings = DataSettings()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    mesh: MeshSettings = MeshSettings()


def default_sections() -> dict[str, Any]:
    """The fields that have a default, as a config has them."""
    fields = {name: field.default for name, field in Experiment.model_fields.items() if not field.is_required()}
    return {name: value.model_dump() if isinstance(value, Document) else value for name, value in fields.items()}


def check_config(config: ConfigDict) -> ConfigDict:
    """The same config with the defaults of what it leaves out, every field checked.

    A setting of the network that is left out, or None, stays out: it follows from the data (`tasks.registry.resolve`).

    Raises:
        UserError: a section or field does not exist, or is missing, or of the wrong type or range.
    """
    try:
        experiment = _read(config.copy_and_resolve_references().to_dict(), "config", CONFIG_REMEDY)
    except RecursionError as error:
        raise UserError(f"config: its sections are nested too deeply; {CONFIG_REMEDY}") from error
    if not isinstance(experiment.roles.get("source"), ChannelRole):
        raise UserError(
            "config.roles.source: is missing; name the channels that the network sees, "
            'such as channel_role("Phase") in the config file'
        )
    return ConfigDict({**experiment.model_dump(), "model": experiment.model.model_dump(exclude_unset=True)})


def check_saved_config(config: Mapping[str, Any], where: str) -> None:
    """Check what a checkpoint says of its experiment; that of converted weights has only some sections.

    Args:
        config: of a description.
        where: what holds it, for messages.

    Raises:
        UserError: as `check_config`.
    """
    sections = dict(config)
    first = sections.pop("first", None)
    _read({"roles": {}, **sections}, where, "take another checkpoint")
    if first is not None:
        if not isinstance(first, Mapping):
            raise UserError(f"{where}.first: is {shorten(repr(first))}, not a config; take another checkpoint")
        check_saved_config(first, f"{where}.first")


def _read(sections: dict[str, Any], where: str, remedy: str) -> Experiment:
    """The document of a whole config. Which documents its model, task and roles are depends on what they hold."""
    sections = dict(sections)
    for section in ("model", "task"):
        given, here = sections.get(section), f"{where}.{section}"
        given = (
            {field: value for field, value in given.items() if value is not None} if isinstance(given, Mapping) else {}
        )
        name = given.get("name")
        kind = network_document(name, here) if section == "model" else find_task(name, here).Settings
        sections[section] = parse(kind, given, here, remedy)
    if isinstance(roles := sections.get("roles"), Mapping):
        sections["roles"] = make_roles(roles, f"{where}.roles", remedy)
    return parse(Experiment, sections, where, remedy)
