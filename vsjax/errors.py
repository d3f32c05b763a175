"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line that names the file, the field and the remedy. The programs print it and exit with
    status 1; library callers may catch it. Anything else that is raised is a fault of vsjax.
    """
