"""When a folder may hold a run, and when the run may resume from its checkpoint."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vsjax.errors import UserError, shorten
from vsjax.plates.storage import check_apart, local_output
from vsjax.runtime.checkpoint import KINDS, steps_in
from vsjax.runtime.description import Description
from vsjax.training.writers import LINE_BEGINS, LOG_NAME

# What may change between the two halves of a run without changing its numbers.
FREE = {
    "train": ("log_every", "save_every"),
    "data": ("plates", "read_threads", "prefetch"),
    "mesh": ("data", "fsdp", "space"),
    "predict": ("tta",),
}

_FOLDERS = ("checkpoints", "images", "tensorboard")  # filled only after the log was begun


def check_workdir(workdir: str | Path, plates: Iterable[str], initial: str) -> Path:
    """The absolute path of a folder in which a run damages nothing and is not mixed with anything. Nothing is written.

    A folder with other files is taken if none of them has a name of the run's.

    Args:
        workdir: the run's folder.
        plates: `config.data.plates`.
        initial: `config.init.checkpoint`.

    Raises:
        UserError: it lies in a plate or around one, below a file or in another run's checkpoints, or holds what is no
            run of vsjax under its names; or it is where the first weights come from, or no folder of this machine.
    """
    if initial and os.path.realpath(initial) == os.path.realpath(workdir):
        raise UserError(
            f"{workdir}: --workdir is config.init.checkpoint, whose weights the run would replace; choose another"
        )
    for plate in plates:
        check_apart(plate, workdir, "--workdir")
    workdir = local_output(workdir, "--workdir")
    try:
        if os.path.lexists(workdir) and not workdir.is_dir():
            raise UserError(f"{workdir}: is no folder; choose another --workdir")
        for folder in (workdir, *workdir.parents):
            if folder.name in KINDS and folder.parent.name == "checkpoints":
                raise UserError(f"{workdir}: lies in the checkpoints of a run; choose another --workdir")
        _check_contents(workdir)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be read ({error.strerror}); choose another --workdir") from error
    return workdir


def _check_contents(workdir: Path) -> None:
    """Refuse what lies under the names of a run's files but is not a run's."""
    for folder in (*_FOLDERS, *(f"checkpoints/{kind}" for kind in KINDS)):
        if os.path.lexists(workdir / folder) and not (workdir / folder).is_dir():
            raise UserError(f"{workdir / folder}: is no folder; choose another --workdir")
    for file in (LOG_NAME, "model.txt"):
        if os.path.lexists(workdir / file) and not (workdir / file).is_file():
            raise UserError(f"{workdir / file}: is no file; choose another --workdir")
    if steps_in(workdir / "checkpoints" / "last"):
        return
    log = workdir / LOG_NAME
    if log.exists():
        with log.open("rb") as lines:
            begin = lines.read(len(LINE_BEGINS))
        if not LINE_BEGINS.startswith(begin):  # a killed run may have left half a line
            raise UserError(f"{log}: is not the log of a run; choose another --workdir")
        return
    for name in _FOLDERS:
        if (workdir / name).is_dir() and (found := next((workdir / name).iterdir(), None)):
            raise UserError(
                f"{workdir}: holds {name}/{shorten(found.name)} but no {LOG_NAME}, so it is no run to be continued; "
                "choose another --workdir"
            )


def check_best(best: Description | None, wanted: Mapping[str, Any], workdir: Path) -> None:
    """Refuse to begin a run anew where a best checkpoint lies that it has not just written before it was killed.

    Raises:
        UserError: it is of another config, or later than the first that a run saves as its last.
    """
    if best is None:
        return
    check_same_config(best.config, wanted, workdir)
    if best.step > wanted["train"]["save_every"]:
        raise UserError(
            f"{workdir}: checkpoints/best is of step {best.step}, but checkpoints/last is not there to go on from, and "
            "a new run would replace it; restore checkpoints/last, or choose another --workdir"
        )


def check_same_config(saved: Mapping[str, Any], wanted: Mapping[str, Any], workdir: Path) -> None:
    """Refuse to continue a run with a config that would change its numbers.

    Raises:
        UserError: naming the first field that differs, both values, and the remedy.
    """
    old, new = (_flat(json.loads(json.dumps(config))) for config in (saved, wanted))
    free = {f"{section}.{name}" for section, names in FREE.items() for name in names}
    for field in sorted((set(old) | set(new)) - free):
        if old.get(field) != new.get(field):
            raise UserError(
                f"{workdir}: config.{field}={new.get(field)!r} but the run to be continued has {old.get(field)!r}; "
                "use its value, or another --workdir"
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
