"""The steps that `python -m vsjax.preprocess` knows by name, and how a config writes one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vsjax.errors import UserError, shorten
from vsjax.intensity.equalization import Equalization
from vsjax.plates.step import Step
from vsjax.schema import document_of, read_section

STEPS: dict[str, type[Step]] = {"equalize": Equalization}  # dataclasses: their fields are the settings


def step_section(name: str, **settings: Any) -> ConfigDict:
    """A config's section of a step: every setting with its default, or as given.

    Raises:
        UserError: the step or a setting does not exist, or a setting has no default and is not given.
    """
    step = make_step({"name": name, **settings})
    return ConfigDict({"name": name, **{field.name: getattr(step, field.name) for field in dataclasses.fields(step)}})


def make_step(section: Mapping[str, Any]) -> Step:
    """The step that a section `{name, ...settings}` describes.

    Raises:
        UserError: the step or a setting does not exist, one is missing, or its value does not suit.
    """
    settings = dict(section) if isinstance(section, Mapping | ConfigDict) else {}
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in STEPS:
        raise UserError(f"config.steps: there is no step {shorten(repr(name))}; choose one of {', '.join(STEPS)}")
    document = read_section(document_of(STEPS[name]), settings, f"config.steps: {name}")
    return STEPS[name](**{field: getattr(document, field) for field in type(document).model_fields})
