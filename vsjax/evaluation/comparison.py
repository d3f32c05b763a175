"""Two plates compared, and the report: what `python -m vsjax.evaluate` does."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vsjax.disk import writing
from vsjax.errors import UserError
from vsjax.evaluation import report, requirements
from vsjax.evaluation.journal import Journal
from vsjax.evaluation.level import Level, Measurement, Results, Row
from vsjax.evaluation.pairing import Job, pair_plates, source_channel
from vsjax.evaluation.pixel import PixelLevel
from vsjax.evaluation.uncertainty import UncertaintyLevel
from vsjax.plates.parts import FOLDER
from vsjax.plates.reader import Plate, open_plate
from vsjax.plates.step import RECORD_ATTRIBUTE
from vsjax.plates.storage import Store, check_apart, local_output
from vsjax.schema import to_json
from vsjax.version import __version__

LEVELS: dict[str, Level] = {"pixel": PixelLevel(), "uncertainty": UncertaintyLevel()}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` did.

    Attributes:
        complete: whether the report is written, by whichever process.
        summary: rows by level's name (`report.summarize`); empty where another process wrote the report, or will.
    """

    complete: bool
    summary: Mapping[str, list[Row]]


def evaluate(
    prediction: str | Path,
    target: str | Path,
    output: str | Path,
    *,
    levels: Sequence[str | Level] | None = None,
    channels: Sequence[str] | None = None,
    positions: Sequence[str] | None = None,
    source: str | None = None,
    labels: str | None = None,
    units: str = "auto",
    overwrite: bool = False,
    process: int = 0,
    processes: int = 1,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Evaluation:
    """Compare two plates and write the report; one channel of one position and time point is in memory at a time.

    Interrupted, the same call resumes with the pairs that are not measured yet; with `overwrite` it starts anew.

    Args:
        prediction: plate that `vsjax.predict` or other software wrote.
        target: plate with the measured channels, normally the one that was predicted from.
        output: directory for the report.
        levels: names in `LEVELS`, or levels of your own; if `None` all that do with what is given and found.
        channels: the target's names; all that were predicted if `None`.
        positions: names; all of the prediction if `None`.
        source: channel of the target plate to show beside them; the one that was predicted from if `None`.
        labels: name of the target plate's label images, for levels that require labels.
        units: in which to compare, one of `units.CHOICES`.
        overwrite: replace the files of an earlier report; other files in `output` are left alone.
        process, processes: this one measures every `processes`-th pair.
        progress: wraps the iterable over pairs, called with `desc`, `initial` and `total`, such as `tqdm.tqdm`.

    Raises:
        UserError: nothing to compare, a prediction unfinished, something that a level requires missing, or an output
            that exists.
    """
    plates = open_plate(prediction), open_plate(target)
    for plate in plates:
        check_apart(plate.url, output)
    output = local_output(output)
    jobs = pair_plates(*plates, channels=channels, positions=positions, units=units)
    names = _names(jobs, source, labels)
    chosen = _choose(levels, names)
    required = requirements.check(jobs, chosen, names)
    about = _about(*plates, jobs, chosen, names)
    journal = Journal(output, about, process, processes)
    if processes > 1 and report.is_complete(output, about):
        return Evaluation(complete=True, summary={})
    _make_output(output, journal, chosen, overwrite, processes)
    journal.measure(jobs, partial(_measure, levels=chosen, required=required), progress or _unshown)
    with journal.read(len(jobs)) as found, writing(output):
        if found is None or (processes > 1 and report.is_complete(output, about)):  # another may have been quicker
            return Evaluation(complete=report.is_complete(output, about), summary={})
        if overwrite:  # until it is written anew; without, the report may be another process's, and complete
            (output / report.DOCUMENT).unlink(missing_ok=True)
        summary = _write_report(output, chosen, jobs, found, names["source"], about)
    journal.delete()
    return Evaluation(complete=True, summary=summary)


def _unshown(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


def _names(jobs: Sequence[Job], source: str | None, labels: str | None) -> dict[str, str | None]:
    """What the plates call what levels may require; UserError that lists the channels where a pair lacks the source."""
    source = source or source_channel(jobs)
    for job in jobs:
        job.target.channel_index(source)
    return {"source": source, "labels": labels, "spread": requirements.find_spread(jobs)}


def _write_report(
    output: Path,
    levels: Sequence[Level],
    jobs: Sequence[Job],
    found: Iterable[Mapping[str, Measurement]],
    source: str,
    about: Mapping[str, Any],
) -> dict[str, list[Row]]:
    """Tables, figures and last `metrics.json`; returns the summary by level."""
    rows, summary = report.collect(output, levels, jobs, found), {}
    for level in levels:
        objects = report.objects_table(output, level) if level.objects else None
        results = Results(jobs=jobs, rows=rows[level.name], objects=objects, source=source)
        summary[level.name] = level.summarize(results)
        level.draw(output, results)
    report.write_tables(output, levels, rows, summary, about)
    return summary


def _choose(levels: Sequence[str | Level] | None, names: Mapping[str, str | None]) -> list[Level]:
    """The levels that are asked for; by default those that do with what is named and found."""
    if levels is None:
        levels = [level for level in LEVELS.values() if all(names[key] for key in level.requires)]
    for level in levels:
        if isinstance(level, str) and level not in LEVELS:
            raise UserError(f"--levels: {level!r} is not known; there are {', '.join(LEVELS)}")
    chosen = [LEVELS[level] if isinstance(level, str) else level for level in levels]
    if names["labels"] and not any("labels" in level.requires for level in chosen):
        raise UserError(f"--labels {names['labels']}: no chosen level requires labels; leave it out or choose --levels")
    return list({level.name: level for level in chosen}.values())


def _about(
    prediction: Plate, target: Plate, jobs: Sequence[Job], levels: Sequence[Level], names: Mapping[str, str | None]
) -> dict[str, Any]:
    """What makes this evaluation the one it is, as JSON has it; `pairs` stands for every pair, its units and what the
    prediction says of how it was made."""
    pairs, records = hashlib.sha256(), {}
    for job in jobs:
        pair = [job.target.name, job.channel, job.prediction_channel, job.time, job.units]
        pair += [job.prediction_affine, job.target_affine]
        if job.target.name not in records:
            records[job.target.name] = None
            pair.append(job.prediction.attributes.get(RECORD_ATTRIBUTE))
        pairs.update(to_json(pair))
    about = {
        "vsjax_version": __version__,
        "prediction": _address(prediction),
        "target": _address(target),
        **names,
        "levels": {level.name: asdict(level) for level in levels},
        "pairs": pairs.hexdigest(),
    }
    return json.loads(to_json(about))


def _address(plate: Plate) -> str:
    local = Store(plate.url).local_path
    return plate.url if local is None else str(local.resolve())


def _measure(job: Job, levels: Sequence[Level], required: Mapping[str, str]) -> dict[str, Measurement]:
    pair = replace(job.read(), beside=requirements.read_beside(job, required))
    return {level.name: level.measure(pair) for level in levels}


def _make_output(output: Path, journal: Journal, levels: Sequence[Level], overwrite: bool, processes: int) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a directory")
    if overwrite and processes > 1:
        raise UserError(f"--overwrite: {processes} processes would delete each other's work; remove {output} first")
    if overwrite:
        report.check_replaceable(output, levels)
        journal.delete()
        if journal.started:  # it would be resumed, not measured anew
            raise UserError(f"--overwrite: {output / FOLDER} cannot be deleted; remove it by hand")
    elif any(not path.is_dir() for path in output.rglob("*")) and not journal.started:  # in this order: others start
        raise UserError(f"--output {output}: exists and is not empty; name another directory or add --overwrite")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be made ({error.strerror}); name another directory") from error
