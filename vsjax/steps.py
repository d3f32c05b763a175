"""The steps that `python -m vsjax.preprocess` knows by name, and how a config writes one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vsjax.errors import UserError
from vsjax.intensity.equalization import Equalization
from vsjax.plates.step import Step

STEPS: dict[str, Callable[..., Step]] = {"equalize": Equalization}  # dataclasses: their fields are the settings


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
    settings = {field: tuple(value) if isinstance(value, list) else value for field, value in section.items()}
    name = settings.pop("name", None)
    if name not in STEPS:
        raise UserError(f"steps: there is no step {name!r}; choose one of {', '.join(STEPS)}")
    fields = {field.name: field for field in dataclasses.fields(STEPS[name])}
    for field in settings:
        if field not in fields:
            raise UserError(f"steps: {name} has no setting {field!r}; it has {', '.join(fields)}")
    for field in fields.values():
        has_default = not (field.default is field.default_factory is dataclasses.MISSING)
        if not has_default and field.name not in settings:
            raise UserError(f"steps: {name} needs the setting {field.name!r}")
    return STEPS[name](**settings)
