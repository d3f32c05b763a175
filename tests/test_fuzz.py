"""The harness of mutations sees what it must see, and a quick sample of it finds no fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each toy is a program in a folder with `input.txt`; it runs in a process without JAX, since the harness forks.
TOYS = """
import json, os, signal, sys, time
from pathlib import Path
from scripts.fuzzing.run import run_trial
from scripts.fuzzing.trial import Trial

def refuses():
    print("vsjax.toy: error: a/b.txt: field x is 3; write a number below 2", file=sys.stderr)
    sys.exit(1)

def refuses_unclearly():
    print("vsjax.toy: error: wrong", file=sys.stderr)
    sys.exit(1)

def refuses_twice():
    print("vsjax.toy: error: a: b; c\\nvsjax.toy: error: d: e; f", file=sys.stderr)
    sys.exit(1)

def refuses_at_length():
    print("vsjax.toy: error: " + "x" * 5000, file=sys.stderr)
    sys.exit(1)

def is_silent():
    sys.exit(1)

def raises():
    raise KeyError("x")

def hangs():
    time.sleep(60)

def hangs_at_its_end():
    import threading
    threading.Thread(target=time.sleep, args=(60,)).start()

def allocates():
    kept = [bytearray(b"x" * (1 << 24)) for _ in range(200)]

def is_killed():
    os.kill(os.getpid(), signal.SIGSEGV)

def accepts():
    Path("out.txt").write_text("result")

def changes_its_input():
    accepts()
    Path("input.txt").write_text("other")

def changes_its_input_and_refuses():
    Path("input.txt").unlink()
    refuses()

def writes_beside():
    accepts()
    Path("../stray.txt").write_text("stray")

def makes_a_link():
    accepts()
    os.symlink("/etc/passwd", "input.link")

results = {}
for name, toy in list(globals().items()):
    if getattr(toy, "__module__", "") != "__main__" or not callable(toy):
        continue
    folder = Path(sys.argv[1]) / name
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "input.txt").write_text("input")
    judge = lambda folder: "" if (folder / "out.txt").read_text() == "result" else "another result"
    seconds = 1.0 if "hangs" in name else 20.0
    results[name] = run_trial(Trial(name, toy, name, ("out.txt",), judge, seconds=seconds), folder)
results["accepts_wrongly"] = run_trial(Trial(name, accepts, name, ("out.txt",), lambda _: "is wrong"), folder)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    done = subprocess.run(
        [sys.executable, "-c", TOYS, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("toy", "fault"),
    [
        ("refuses", None),
        ("refuses_unclearly", None),
        ("refuses_twice", "lines"),
        ("refuses_at_length", "lines"),
        ("is_silent", "lines"),
        ("raises", "traceback"),
        ("hangs", "hang"),
        ("hangs_at_its_end", "hang"),
        ("allocates", "memory"),
        ("is_killed", "crash"),
        ("accepts", None),
        ("accepts_wrongly", "wrongly"),
        ("changes_its_input", "changed"),
        ("changes_its_input_and_refuses", "changed"),
        ("writes_beside", "changed"),
        ("makes_a_link", "changed"),
    ],
)
def test_the_harness_sees(toys, toy, fault):
    assert list(toys[toy]["faults"]) == ([fault] if fault else []), toys[toy]
    assert toys[toy]["accepted"] == (toy.startswith(("accept", "writes", "makes")) or toy == "changes_its_input")


def test_the_harness_tells_clear_lines_from_others(toys):
    assert toys["refuses"]["clear"]
    assert not toys["refuses_unclearly"]["clear"]


def test_a_sample_of_mutations_finds_no_fault(tmp_path):
    """Every category, by a fixed seed."""
    done = subprocess.run(
        [sys.executable, "scripts/fuzz.py", "--cases", "39", "--seed", "0", "--output", str(tmp_path / "results.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len({line["category"] for line in results}) == 13
    assert sum(line["accepted"] for line in results) > 4
    assert sum(bool(line["line"]) for line in results) > 15
