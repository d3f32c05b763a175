"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line that names the file, the field and the remedy. The programs print it and exit with
    status 1; library callers may catch it. Anything else that is raised is a fault of vsjax.
    """


class WriteError(UserError):
    """The disk does not take any more: no space, or no right to write. What was written before is whole."""


class Preempted(Exception):
    """The machine was asked back (SIGTERM); what was done is saved. Programs print the line and exit with status 75."""
