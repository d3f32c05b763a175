"""The one exception that a user is meant to read."""

LONGEST_LINE = 1000  # characters; a message never gets longer, whatever it echoes of a file


class UserError(Exception):
    """Something the user can put right.

    The message is one line that names the file, the field and the remedy. The programs print it and exit with
    status 1; library callers may catch it. Anything else that is raised is a fault of vsjax.
    """

    def __init__(self, message: str) -> None:
        """Keep the beginning of a long line, which names the file, and its end, which names the remedy."""
        super().__init__(shorten(" ".join(message.split()), LONGEST_LINE))


class WriteError(UserError):
    """The disk does not take any more: no space, or no right to write. What was written before is whole."""


class Preempted(Exception):
    """The machine was asked back (SIGTERM); what was done is saved. Programs print the line and exit with status 75."""


def shorten(text: str, longest: int = 100) -> str:
    """Text of at most `longest` printable characters, its middle left out where it is longer."""
    if len(text) > longest:
        text = f"{text[: longest // 2 - 3]} ... {text[-(longest // 2 - 3) :]}"
    return "".join(c if c.isprintable() else "?" for c in text)
