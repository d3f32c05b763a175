"""What is wrong with how a case ended."""

import re
import signal
from dataclasses import dataclass, field

from scripts.fuzzing.child import Outcome

FAULTS = ("traceback", "hang", "memory", "crash", "changed", "wrongly", "lines")
LONGEST_LINE = 1100  # characters: a message of at most 1000 and the program's name
_ERROR = re.compile(r"(?m)^.*?\berror: (.*)$")
_SUBJECT = re.compile(r"/|\\|--\w|config\.|\bcommand line\b|\bvolume\b|\bsettings\b|\.\w+\b|argument|://")
_REMEDY = re.compile(
    r";|\b(choose|give|write|name|run|use|take|restore|fetch|check|remove|set|make|leave|train|convert|must|repeat|"
    r"wait|free|expected one|invalid choice|required)\b"
)


@dataclass(frozen=True)
class Verdict:
    """How one case ended.

    Attributes:
        accepted: whether the program ended with status 0.
        faults: what is wrong, by one of `FAULTS`, in words.
        line: the error line; empty where there is none.
        clear: whether the line names a file or flag, what is wrong of it, and a remedy, as far as its words show.
    """

    accepted: bool
    faults: dict[str, str] = field(default_factory=dict)
    line: str = ""
    clear: bool = True


def judge(outcome: Outcome, changed: list[str], wrongly: str, limits_seconds: float) -> Verdict:
    """The verdict on a case.

    Args:
        outcome: how it ended.
        changed: what it changed that it may not.
        wrongly: why what was accepted should not have been; empty otherwise.
        limits_seconds: what it was allowed.
    """
    faults = {}
    line, complaint = error_line(outcome.stderr)
    accepted = outcome.status == 0
    if outcome.killed_for == "time":
        faults["hang"] = f"more than {limits_seconds:.0f} s"
    elif outcome.killed_for == "memory":
        faults["memory"] = f"{outcome.peak_bytes / 2**30:.1f} GiB"
    elif outcome.signal:
        faults["crash"] = signal.Signals(outcome.signal).name
    elif "Traceback (most recent call last)" in outcome.stderr:
        faults["traceback"] = last_line(outcome.stderr)
    elif not accepted and complaint:
        faults["lines"] = complaint
    if changed:
        faults["changed"] = "; ".join(changed[:5])
    if wrongly:
        faults["wrongly"] = wrongly
    return Verdict(accepted, faults, "" if accepted else line, accepted or is_clear(line))


def error_line(stderr: str) -> tuple[str, str]:
    """The one line that refuses, and what is wrong with how it refuses, empty where nothing is."""
    text = stderr.replace("\r", "\n")
    found = [match.group(1) for match in _ERROR.finditer(text)]
    if not found:
        return "", f"no error line; the last is {last_line(stderr)[:200]!r}"
    if len(found) > 1:
        return found[0], f"{len(found)} error lines"
    if len(found[0]) > LONGEST_LINE:
        return found[0], f"an error line of {len(found[0])} characters"
    return found[0], ""


def is_clear(line: str) -> bool:
    """Whether a line seems to say where, what and what to do: a guess by its words."""
    head, _, rest = line.partition(": ") if ": " in line else line.partition(" ")
    names_something = _SUBJECT.search(head) or " " not in head  # such as the name of a file here
    return bool(names_something and len(rest.split()) > 3 and _REMEDY.search(rest))


def last_line(text: str) -> str:
    """The last line with something in it."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
