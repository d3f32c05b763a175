"""How every program starts and ends, where the surroundings are not as expected: one line, a status, no traceback."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vsjax.errors import UserError
from vsjax.program import PIPE_CLOSED, parse_settings, run_program

ROOT = Path(__file__).resolve().parents[1]


def child(code, shell="{}", **environment):
    """A program of one line, in a shell's command."""
    command = f"{sys.executable} -c 'from vsjax.program import run_program; run_program(\"x\", lambda: {code})'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(
        ["bash", "-c", shell.format(command)], capture_output=True, text=True, env=environment, check=False, timeout=120
    )


def test_nobody_reads_the_output_any_more():
    done = child('[print(1000 * "a") for _ in range(1000)]', "{} | head -c 1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stdout, done.stderr) == (PIPE_CLOSED, "a", "")


@pytest.mark.parametrize("cache", ["/dev/null", "/proc/nowhere"])
def test_a_terminal_of_few_letters_a_cache_that_is_none_a_name_of_any_bytes(cache):
    done = child(
        'print("\\u00b5 \\udcff")',
        PYTHONIOENCODING="ascii",
        XDG_CACHE_HOME=cache,
        JAX_COMPILATION_CACHE_DIR=None,
        COLUMNS="-3",
        TERM="nonsense",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xb5 \\udcff\n", "")


def test_a_closed_output_and_a_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    done = child("print(1)", f"cd {tmp_path / 'gone'}; rmdir {tmp_path / 'gone'}; {{}} >&-")
    assert (done.returncode, done.stderr) == (
        1,
        "vsjax.x: error: the working folder is not there any more; change to another\n",
    )


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a/b.zarr: is none; give one"), "a/b.zarr: is none; give one"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "xxx.* File name too long; give another path"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: Not a directory; give another path"),
        (MemoryError(), "the memory does not suffice .MemoryError.; take smaller tiles"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "the memory does not suffice .RESOURCE"),
    ],
)
def test_one_line_for_what_a_user_can_put_right(capfd, monkeypatch, error, message):
    monkeypatch.setattr("vsjax.program._show_log", lambda: None)
    with pytest.raises(SystemExit) as stop:
        run_program("x", lambda: fail(error))
    said = capfd.readouterr().err
    assert stop.value.code == 1
    assert said.count("\n") == 1
    assert len(said) < 1100
    assert re.match(rf"vsjax.x: error: {message}", said)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error", "a"), ValueError("ours")])
def test_faults_of_ours_stay_visible(monkeypatch, error):
    monkeypatch.setattr("vsjax.program._show_log", lambda: None)
    with pytest.raises(type(error)):
        run_program("x", lambda: fail(error))


@pytest.mark.parametrize("text", ["(" * 100_000, "{[]: 1}", "1" * 5000, "x\0", "9**9"])
def test_settings_that_are_no_python_are_text(text):
    assert parse_settings("--set", [f"a={text}"]) == {"a": text}
