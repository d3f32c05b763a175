"""What lies in a folder, so that it can be compared with what lies there later."""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path


def take(folder: Path) -> dict[str, str]:
    """What every path below a folder is: a file's digest, a link's target, or the kind of what else it is."""
    found = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            found[relative] = _describe(path)
    return found


def changes(before: dict[str, str], after: dict[str, str], may_write: Iterable[str]) -> list[str]:
    """In words, what was changed, added or removed, but for what lies at or below the paths that may be written."""
    allowed = tuple(may_write)
    told = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path) or any(path == top or path.startswith(f"{top}/") for top in allowed):
            continue
        told.append(f"{'added' if path not in before else 'removed' if path not in after else 'changed'} {path!r}")
    return told


def _describe(path: bytes) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)!r}"
    if stat.S_ISREG(mode):
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha1").hexdigest()
        except OSError as error:
            return f"unreadable ({error.strerror})"
    return stat.filemode(mode)
