"""How much memory there is, so that what cannot fit is refused before it is asked for; and giving some back."""

import ctypes
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


def give_back() -> None:
    """Return the heap's free pages to the system: compiling a training step leaves over a GiB of them, which would
    count beside what the step itself needs. Does nothing where the C library has no way to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
