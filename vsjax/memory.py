"""How much memory there is, so that what cannot fit is refused before it is asked for."""

import os

from vsjax.errors import UserError


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(what: str, needed: int, remedy: str) -> None:
    """UserError where this machine does not have as many bytes; `what` names the field and what needs them."""
    if needed > machine_bytes():
        raise UserError(
            f"{what} would take {needed / 2**30:,.1f} GiB, of which this machine has "
            f"{machine_bytes() / 2**30:,.1f}; {remedy}"
        )
