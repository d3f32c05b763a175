"""How every `python -m vsjax.NAME` starts and ends: one line for a user's mistake, a traceback for ours."""

import sys
from collections.abc import Callable

from vsjax.errors import UserError


def run_program(name: str, main: Callable[[], None]) -> None:
    """Call `main` and exit: status 0, or 1 after one line on standard error when it raises `UserError`."""
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"vsjax.{name}: error: {message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"vsjax.{name}: interrupted", file=sys.stderr)
        sys.exit(130)
