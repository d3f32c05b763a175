"""How every program starts and ends, where the surroundings are not as expected: one line, a status, no traceback."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import vsjax
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


@pytest.mark.parametrize("imported", ["before", "by the program"])
def test_the_first_start_leaves_what_it_compiled_to_the_second(tmp_path, imported):
    """Also small programs, whose compilation takes less than a second."""
    code = """
from vsjax.program import run_program
def main():
    import jax, time
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    jax.jit(lambda x: [jax.random.truncated_normal(x, -2, 2, (n, n)) for n in range(4)])(jax.random.key(0))
    print(sum(name.endswith("cache_hits") for name in hits), sum(name.endswith("cache_misses") for name in hits))
run_program("x", main)
"""
    code = f"import jax\n{code}" if imported == "before" else code
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code]
    said = [subprocess.check_output(command, env=environment, text=True, timeout=60).split() for _ in range(2)]
    assert said[0][0] == "0"
    assert int(said[0][1]) > 0
    assert said[1] == [said[0][1], "0"]


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


HEAVY = {"jax", "flax", "optax", "orbax", "grain", "tensorstore", "scipy", "numpy"}
WATCHED = """
import runpy, sys
try:
    runpy.run_module(f"vsjax.{sys.argv.pop(1)}", run_name="__main__")
except SystemExit as end:
    status = end.code
print("", status or 0, *sorted({name.partition(".")[0] for name in sys.modules}))
"""
PROGRAMS = re.findall(r"(?m)^ {4}(\w[\w ]*)$", vsjax.__doc__)[-1].split()


def run_watched(name, *arguments):
    """Its status, standard output and error, and the names of all that it imported."""
    command = [sys.executable, "-c", WATCHED, name, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True, timeout=60)
    output, _, end = done.stdout.rpartition("\n ")
    status, *modules = end.split()
    return int(status), output, done.stderr, set(modules)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_comes_before_the_libraries(name):
    status, output, errors, modules = run_watched(name, "--help")
    assert (status, errors) == (0, "")
    assert f"python -m vsjax.{name}" in output
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --config configs/unext2.py --config.model.head_pool --workdr=runs/a", "'--workdr=runs/a' belongs to"),
        ("train --config configs/unext2.py --config.data.batch_size 3", "give --config .* and --workdir runs/a"),
        ("train --config configs/nowhere.py --workdir runs/a", "nowhere.py"),
        ("train --config configs/unext2.py --workdir runs/a --processes many", "--processes"),
        (
            "describe --config configs/unext2.py --compil",
            "'--compil' belongs to .*, --compile;",
        ),
        ("predict --checkpoint runs/a --input P.zarr", "required: --output"),
        ("preprocess equalise --plate P.zarr", "there is no step 'equalise'"),
        ("preprocess --plate P.zarr --grid 0", "--grid: 0 is not from 1"),
        ("simulate --output P.zarr --threads 0", "--threads: 0 is not from 1"),
        ("convert --input a.ckpt --output b --set pool", "--set pool: has no value"),
        ("evaluate --prediction P.zarr --target P.zarr --output r --units inches", "--units: invalid choice"),
    ],
)
def test_a_wrong_command_line_is_told_before_the_libraries(command, words):
    status, _, errors, modules = run_watched(*command.split())
    assert status == 1
    assert re.search(words, errors)
    assert errors.count("\n") == 1
    assert not modules & HEAVY


def test_the_value_of_a_configs_field_may_follow_it(tmp_path):
    """With a space, be it a truth value's or not; the error is that of the config, whose Python was run."""
    flags = ["--config.model.head_pool", "--workdir", str(tmp_path), "--config.data.batch_size", "0"]
    status, _, errors, _ = run_watched("train", "--config", "configs/unext2.py", *flags)
    assert status == 1
    assert "config.data.batch_size: is 0" in errors
