"""Encoder, decoder and head: the parts of a network that are loaded or frozen together."""

import re
from typing import Any

import jax

from vsjax.errors import UserError

# Top-level modules of every network, as `models/` names them.
_PARTS = {
    "encoder": re.compile(r"stem|stem_norm|in_conv|encoder_\d+|down_\d+|bottom|bottleneck"),
    "decoder": re.compile(r"decoder|decoder_\d+|up_\d+|skip_\d+"),
    "head": re.compile(r"head|terminal|out_conv"),
}
CHOICES = {"": (), "encoder": ("encoder",), "encoder+decoder": ("encoder", "decoder"), "all": tuple(_PARTS)}


def check_choice(field: str, choice: str) -> str:
    """The value of `config.init.load` or `config.init.freeze`; UserError if it names no parts."""
    if choice not in CHOICES:
        raise UserError(
            f"config.init.{field}={choice!r} does not exist; choose one of {', '.join(filter(None, CHOICES))}"
        )
    return choice


def part_of(module: str) -> str:
    """The part that a top-level module belongs to; ValueError for a name that no network has."""
    for part, pattern in _PARTS.items():
        if pattern.fullmatch(module):
            return part
    raise ValueError(f"the module {module!r} is in no part of a network")


def is_in(parts: tuple[str, ...], params: Any) -> Any:
    """For every parameter of a tree `{module: ...}`, whether its module is in one of the parts."""
    return {module: jax.tree.map(lambda _, m=module: part_of(m) in parts, tree) for module, tree in params.items()}
