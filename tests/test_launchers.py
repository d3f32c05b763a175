"""The launchers of a Slurm cluster and of a TPU pod, run with commands that stand in for the scheduler's."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SLURM, TPU = SCRIPTS / "slurm_train.sbatch", SCRIPTS / "tpu_pod_train.sh"
STAINS = "--config.roles.target.channels=('nuclei', 'membrane')"
ARGUMENTS = ["--config", "configs/unext2.py", "--workdir", "runs/a", STAINS]

SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKE/srun.arguments"
trap 'echo told >> "$FAKE/calls"; exit 75' USR1
echo srun >> "$FAKE/calls"
for _ in $(seq "${SLEEPS:-0}"); do sleep 0.05; done
exit "$STATUS"
"""
SCONTROL = '#!/bin/bash\necho "scontrol $*" >> "$FAKE/calls"\n'
GCLOUD = """#!/bin/bash
# The states that the slice is in, and the statuses that training ends with, one after the other from two files.
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
*queued-resources\\ describe*) next "$FAKE/states" ;;
*tpu-vm\\ ssh*vsjax.train*) echo train >> "$FAKE/calls"; printf '%s\\n' "${@: -1}" > "$FAKE/command"
    for status in $(next "$FAKE/statuses"); do echo "vsjax_status=$status"; done ;;
*) echo "$4" | grep -q . && echo "$3 $4" >> "$FAKE/calls" ;;
esac
"""


@pytest.fixture
def fake(tmp_path):
    """Run a launcher with the stand-ins first on the PATH."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("gcloud", GCLOUD)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def launch(fake, script, **variables):
    path = f"{fake / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FAKE": str(fake), "SLURM_JOB_ID": "77", "POLL_S": "0", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", script, *ARGUMENTS], env=environment, cwd=SCRIPTS.parent, **pipes)


def calls(fake):
    path = fake / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("script", [SLURM, TPU])
def test_shell_accepts_them(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", script], check=True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(75, ["srun", "scontrol requeue 77"]), (0, ["srun"]), (1, ["srun"]), (137, ["srun"]), (143, ["srun"])],
)
def test_slurm_requeues_what_was_stopped_and_nothing_else(fake, status, expected):
    with launch(fake, SLURM, STATUS=str(status)) as script:
        script.wait(60)
    assert calls(fake) == expected
    assert script.returncode == status


def test_slurm_gives_the_training_what_it_was_given(fake):
    with launch(fake, SLURM, STATUS="0", VSJAX_PYTHON="/opt/python") as script:
        script.wait(60)
    arguments = (fake / "srun.arguments").read_text().splitlines()
    at = arguments.index("/opt/python")
    assert arguments[at:] == ["/opt/python", "-m", "vsjax.train", "--cluster", *ARGUMENTS]
    assert all(argument.startswith("--") for argument in arguments[:at])


def test_slurm_options_that_the_restart_depends_on():
    """A job is put back into the queue only with --requeue; the steps, not the shell (B:), get the signal."""
    options = [line.split()[1] for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= set(options)


def test_a_cancelled_job_is_not_put_back(fake):
    """scancel signals the shell too: it waits until the step has saved, and lets the job end."""
    script = launch(fake, SLURM, STATUS="75", SLEEPS="20")
    while "srun" not in calls(fake):
        time.sleep(0.01)
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=60)
    assert (script.returncode, calls(fake)) == (75, ["srun"])


def tpu(fake, states, statuses):
    (fake / "states").write_text("".join(f"{state}\n" for state in states))
    (fake / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    with launch(fake, TPU, TPU_NAME="vs", ZONE="z", TYPE="v5litepod-16") as script:
        script.wait(60)
    return script.returncode, [call for call in calls(fake) if not call.startswith("tpu-vm")]


CREATE, DELETE = "queued-resources create", "queued-resources delete"


@pytest.mark.parametrize(
    ("states", "statuses", "status", "expected"),
    [
        (["", "WAITING", "ACTIVE"], ["0 0"], 0, [CREATE, "train", DELETE]),
        (["ACTIVE", "ACTIVE"], ["75 75", "0 0"], 0, ["train", "train", DELETE]),
        (["ACTIVE", "SUSPENDED", "", "ACTIVE"], ["", "0 0"], 0, ["train", DELETE, CREATE, "train", DELETE]),
        (
            ["ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"],
            ["134", "0"],
            0,
            ["train", DELETE, CREATE, "train", DELETE],
        ),
        (["ACTIVE"], ["1 1"], 1, ["train", DELETE]),
        (["ACTIVE", "ACTIVE"], ["1 134"], 1, ["train", DELETE]),
    ],
    ids=["new", "told to stop", "taken away", "taken away while it ran", "error", "fault"],
)
def test_tpu_goes_on_until_it_is_done(fake, states, statuses, status, expected):
    assert tpu(fake, states, statuses) == (status, expected)


def test_tpu_workers_get_the_arguments_as_they_are(fake):
    tpu(fake, ["ACTIVE"], ["0"])
    command = (fake / "command").read_text().split("; echo")[0].split("-m vsjax.train --cluster ")[1]
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ARGUMENTS
