"""What is said of a run before there are data, against the run's own state and XLA's account."""

import logging
import os
import re

import pytest

from vsjax.describe import main
from vsjax.errors import UserError

CONFIG = "--config=configs/unet2d.py:debug"


def mebibytes(output):
    rows = re.findall(r"(?m)^ *([\d.,]+) MiB  (.*)$", output)
    return {name.split(" of")[0]: float(size.replace(",", "")) for size, name in rows}


def test_the_published_networks_numbers(capsys):
    """Parameters are VisCy's, and so are the multiply-adds, 721.84 G on 64 times the plane; AdamW has two moments."""
    main(["--config=configs/unext2.py", "--config.optim.average_decay=0.9"])
    output = capsys.readouterr().out
    assert "model UNeXt2: 32,042,729 parameters (encoder " in output
    assert f"{721.83867 / 64:.2f} G multiply-adds" in output
    found = mebibytes(output)
    one = 4 * 32_042_729 / 2**20
    expected = {"parameters": 2 * one, "optimiser": 2 * one, "gradients": one}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.06)


def test_what_is_kept_for_the_gradient_is_about_what_xla_takes(capsys, caplog):
    """Within a factor of 2, of a batch that is large beside the parameters."""
    logging.getLogger("vsjax").propagate = True
    with caplog.at_level(logging.INFO):
        main([CONFIG, "--config.data.patch=(1, 64, 64)", "--config.task.loss.ms_dssim=0.0", "--compile"])
    account = int(re.search(r"activations and gradients ([\d,]+)", caplog.text)[1].replace(",", "")) / 2**20
    found = mebibytes(capsys.readouterr().out)
    assert 0.5 < (found["gradients"] + found["kept for the gradient"]) / account < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --config"),
        (["--config=configs/nothing.py"], "(?s)command line: .*nothing.py"),
        ([CONFIG, "--config.model.filters=3"], "command line: .*filters"),
        ([CONFIG, "--config.data.patch=(1, 30, 32)"], "Y=30 is not divisible"),
        ([CONFIG, "runs/a"], "'runs/a' belongs to no flag"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file"),
        (b"\x93NUMPY\x01\0v\0", "experiment.py"),
        (b"[" * 100_000, "experiment.py"),
        (b"def get_config():\n    return 3", "experiment.py"),
    ],
)
def test_a_config_that_is_none(tmp_path, content, message):
    path = tmp_path / "experiment.py"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        main([f"--config={path}"])
    assert "\n" not in str(caught.value)
