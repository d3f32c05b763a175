"""Where a converted checkpoint goes."""

import tempfile
from pathlib import Path
from typing import Any

from vsjax.disk import writing
from vsjax.errors import UserError
from vsjax.runtime.checkpoint import describe_checkpoint, save_variables
from vsjax.runtime.description import Description


def check_output(output: Path, overwrite: bool) -> None:
    """UserError where something is in the way; --overwrite replaces a converted checkpoint and nothing else."""
    try:
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
    except OSError as error:  # a name that is too long, a folder that must not be read
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    if not overwrite:
        raise UserError(f"{output}: exists; choose another --output, or --overwrite a converted checkpoint")
    try:
        is_converted = bool(describe_checkpoint(output / "checkpoints" / "best" / "0").converted_from)
    except UserError:
        is_converted = False
    own = {Path("checkpoints"), Path("checkpoints/best"), Path("checkpoints/best/0")}
    if (
        not is_converted
        or {path.relative_to(output) for n in (1, 2, 3) for path in output.glob("/".join("*" * n))} != own
    ):
        raise UserError(f"{output}: is no converted checkpoint, so --overwrite spares it; choose another --output")


def save(output: Path, variables: dict[str, Any], description: Description) -> None:
    """Write beside the output and rename, so that what was there is replaced by a whole checkpoint or not at all."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    with writing(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        save_variables(Path(folder) / "new", variables, description)
        if output.exists():
            output.rename(Path(folder) / "old")
        (Path(folder) / "new").rename(output)
