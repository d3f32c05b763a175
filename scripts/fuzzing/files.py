"""Mutations of a file that know nothing of what it holds, and of what stands at its path."""

import os
import random
import shutil
from pathlib import Path

CONTENT = ("cut", "emptied", "flipped", "lengthened", "zeroed")
PLACE = ("removed", "a folder", "a broken link", "a link to itself", "a FIFO", "unreadable", "a device")


def mutate(path: Path, choose: random.Random, kinds: tuple[str, ...] = CONTENT + PLACE) -> str:
    """Change the file, or put something else in its place; the kind of change."""
    kind = choose.choice(kinds)
    if kind in CONTENT:
        path.write_bytes(change_content(path.read_bytes(), kind, choose))
    else:
        put_in_place(path, kind)
    return kind


def change_content(content: bytes, kind: str, choose: random.Random) -> bytes:
    """Other bytes, always different ones where there are any."""
    if kind == "emptied" or not content:
        return b""
    if kind == "cut":
        return content[: choose.randrange(len(content))]
    if kind == "lengthened":
        return content + choose.randbytes(choose.choice([1, 8, 1000]))
    if kind == "zeroed":
        start = choose.randrange(len(content))
        end = min(len(content), start + 64)
        return content[:start] + bytes(end - start) + content[end:]
    changed = bytearray(content)
    for place in {choose.randrange(len(content)) for _ in range(choose.choice([1, 1, 2, 8]))}:
        changed[place] ^= 1 << choose.randrange(8)
    return bytes(changed)


def put_in_place(path: Path, kind: str) -> None:
    """Something else at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif kind != "unreadable":
        path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
        (path / "x").write_bytes(b"x")
    elif kind == "a broken link":
        path.symlink_to("nothing/is/there")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "unreadable" and path.exists():
        path.chmod(0)
