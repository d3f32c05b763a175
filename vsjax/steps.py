"""The steps that `python -m vsjax.preprocess` knows by name, and how a config writes one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vsjax.errors import UserError, shorten
from vsjax.intensity.equalization import Equalization
from vsjax.plates.reader import open_plate
from vsjax.plates.step import ImageInfo, Step
from vsjax.schema import CONFIG_REMEDY, Document, parse

STEPS: dict[str, type[Document]] = {"equalize": Equalization}  # steps whose fields are their settings


def step_section(name: str, **settings: Any) -> ConfigDict:
    """A config's section of a step: every setting with its default, or as given.

    Raises:
        UserError: the step or a setting does not exist, or a setting has no default and is not given.
    """
    step = make_step({"name": name, **settings})
    return ConfigDict({"name": name, **{field: getattr(step, field) for field in STEPS[name].model_fields}})


def make_step(section: Mapping[str, Any] | ConfigDict) -> Step:
    """The step that a section `{name, ...settings}` describes.

    Raises:
        UserError: the step or a setting does not exist, one is missing, or its value does not suit.
    """
    if isinstance(section, ConfigDict):
        section = section.to_dict()
    if not isinstance(section, Mapping):
        raise UserError(f"config.steps: {shorten(repr(section))} is no step; write its name and settings")
    settings = dict(section)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in STEPS:
        raise UserError(f"config.steps: there is no step {shorten(repr(name))}; choose one of {', '.join(STEPS)}")
    return parse(STEPS[name], settings, f"config.steps: {name}", CONFIG_REMEDY)


def channels_made(step: Step, url: str, channels: Sequence[str] | None) -> list[str]:
    """The names of what a step makes of a plate's first image: of all channels, or of these, in their order."""
    image = step.derive(ImageInfo.of(open_plate(url).first_position())).image
    if channels is None:
        return list(image.channel_names)
    return [image.channel_names[image.channel_index(channel)] for channel in channels]
