"""What a disk refuses: outputs that it does not take, in whatever library's words, and inputs that are no files."""

import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vsjax.errors import UserError, WriteError

LOG = logging.getLogger(__name__)
_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space, or have the quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a WriteError that names `path`; other errors pass.

    Raises:
        WriteError: no space, no right to write, a file too large.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (number := _refusal(error)) is None:
            raise
        message = refusal_message(path, number)
    else:
        return
    raise WriteError(message)  # outside of the handler, so that nothing of the libraries' stays alive


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and be the only program that asks to write into it, until the block or the program ends.

    Raises:
        UserError: another one is at work there, or the file system makes no folders.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # such as /proc
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another place") from error
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another program is writing there; wait for its end, or go elsewhere") from error
        except OSError:  # a file system without locks
            LOG.warning("%s: cannot be locked; let no other program write there meanwhile", folder)
        yield


def has_file(path: str | Path, where: str = "", largest: int | None = None) -> bool:
    """Whether an ordinary file is at `path`, if need be through links.

    Raises:
        UserError: there is something else, whose reading would give nothing or never end: a folder, a broken link, a
            pipe, a socket, a device; or a file of more than `largest` bytes. The line begins with `where`, by default
            the path.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise UserError(f"{where or path}: is a broken link; restore the file that it leads to") from None
        return False
    except OSError as error:
        raise UserError(
            f"{where or path}: cannot be read ({error.strerror}); restore it or make it readable"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UserError(f"{where or path}: is {kind}, not a file; remove it and restore the file")
    if largest is not None and status.st_size > largest:
        raise UserError(
            f"{where or path}: has {status.st_size} bytes (at most {largest} can be right); restore the file"
        )
    return True


def refusal_message(path: str | Path, number: int) -> str:
    """The line for a user: the path, the reason for `errno` number and the remedy."""
    return (
        f"{path}: cannot be written: {os.strerror(number)}; {_REMEDIES[number]} and give the same command again, "
        "what was saved is whole"
    )


def refusal_in(text: str) -> int | None:
    """The `errno` number in TensorStore's "[os_error_code='28']", None where it is not of the disk's refusals."""
    found = re.search(r"os_error_code='(\d+)'", text)
    return int(found[1]) if found and int(found[1]) in _REMEDIES else None


def _refusal(error: BaseException | None) -> int | None:
    """The `errno` number, searched in an error and in what led to it: libraries wrap it in errors of their own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            return error.errno
        if (number := refusal_in(str(error))) is not None:
            return number
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
