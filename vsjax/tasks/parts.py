"""The parts of a network that are loaded or frozen together: `config.init.load` and `config.init.freeze`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from vsjax.errors import UserError


def chosen_modules(field: str, choice: str, parts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The top-level modules that `config.init.load` or `config.init.freeze` names.

    Args:
        field: `load` or `freeze`.
        choice: the field's value: a part with those before it, such as "encoder+decoder"; "all"; "" for none.
        parts: of the network (`models/network.py`).

    Raises:
        UserError: the network has no such parts.
    """
    names = list(parts)
    choices = {"+".join(names[:count]): names[:count] for count in range(len(names))} | {"all": names}
    if choice not in choices:
        raise UserError(
            f"config.init.{field}={choice!r} does not exist; choose one of {', '.join(filter(None, choices))}"
        )
    return tuple(module for part in choices[choice] for module in parts[part])


def is_in(modules: Collection[str], params: Any) -> Any:
    """For every parameter of a tree `{module: ...}`, whether it belongs to one of the modules."""
    return {module: jax.tree.map(lambda _, m=module: m in modules, tree) for module, tree in params.items()}
