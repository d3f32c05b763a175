"""What the processes of one evaluation have measured so far, kept in its output until the report is written."""

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vsjax.disk import has_file, writing
from vsjax.errors import UserError
from vsjax.evaluation.level import Measurement, MeasurementRecord
from vsjax.plates.parts import FOLDER, Parts
from vsjax.plates.storage import Store
from vsjax.schema import Document, parse, parse_object, to_json

_REMEDY = "add --overwrite to measure all anew"


class _Line(Document):
    """What was found in one job, by the level's name."""

    levels: dict[str, MeasurementRecord]


class _Done(Document):
    """What a process leaves that has measured all of its jobs."""

    jobs: int


class Journal:
    """One JSON line per job in `.vsjax/evaluation/DIGEST/I_of_N.jsonl`, where process I takes every N-th job. A process
    that is killed and started again resumes after its last whole line; one that is done says so by leaving its part.

    Args:
        output: the folder of the report.
        identity: what the evaluation is; others have journals of their own.
        process, processes: this one's number, from 0, and how many there are.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], process: int, processes: int) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
        self._folder = output / FOLDER / "evaluation" / digest
        self._files = [self._folder / f"{number}_of_{processes}.jsonl" for number in range(processes)]
        self._parts = Parts(Store(output), _Done, f"evaluation/{digest}", process, processes, identity)
        self._process = process

    @property
    def started(self) -> bool:
        """Whether a process of this evaluation has started, so that this one resumes it or shares it."""
        return self._folder.is_dir()

    def measure(
        self,
        jobs: Sequence[Any],
        measure: Callable[[Any], Mapping[str, Measurement]],
        progress: Callable[..., Iterable[Any]],
    ) -> None:
        """Write what `measure` finds, by level, in those of this process's jobs that are left.

        `progress` wraps the iterable over these, called with `desc`, `initial` and `total`, such as `tqdm.tqdm`.
        """
        mine, path = jobs[self._process :: len(self._files)], self._files[self._process]
        with writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            has_file(path)
            file = path.open("a+b")
        with file:
            done = _drop_half_line(file)
            shown = iter(progress(mine[done:], desc="evaluate", initial=done, total=len(mine)))
            try:
                for job in shown:
                    found = {name: MeasurementRecord.of(level) for name, level in measure(job).items()}
                    line = to_json(_Line(levels=found).model_dump()) + b"\n"
                    with writing(path):
                        file.write(line)
                        file.flush()
            finally:
                if isinstance(shown, Generator):
                    shown.close()  # a bar ends before an error is printed
        self._parts.write(_Done(jobs=len(mine)))

    @contextmanager
    def read(self, count: int) -> Iterator[Iterator[dict[str, Measurement]] | None]:
        """What was found in all `count` jobs, in their order, one at a time; None while a process is not done."""
        with ExitStack() as stack:
            try:  # another that finds all parts may be quicker, and delete them
                files = [stack.enter_context(file.open("rb")) for file in self._files] if self._parts.gather() else None
            except FileNotFoundError:
                files = None
            yield files and (self._next(files, number) for number in range(count))

    def _next(self, files: Sequence[BinaryIO], number: int) -> dict[str, Measurement]:
        """What was found in a job. UserError where its line is damaged or missing."""
        which = number % len(files)
        where = f"{self._files[which]}: line {number // len(files) + 1}"
        line = files[which].readline()
        if not line:
            raise UserError(f"{where}: is missing; {_REMEDY}")
        found = parse(_Line, parse_object(line, where, _REMEDY), f"{where}:", _REMEDY)
        return {name: record.measurement() for name, record in found.levels.items()}

    def delete(self) -> None:
        """Forget it all: the report is written, or all is to be measured anew."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # another's are there too
            self._folder.parent.rmdir()
            self._folder.parent.parent.rmdir()


def _drop_half_line(file: BinaryIO) -> int:
    """Cut off what a killed process wrote of its last line; returns the number of whole lines."""
    file.seek(0)
    lines = size = 0
    for line in file:
        if line.endswith(b"\n"):
            lines, size = lines + 1, size + len(line)
    file.truncate(size)
    return lines
