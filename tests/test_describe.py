"""What is said of a run before there are data, against the run's own state and XLA's account."""

import logging
import os
import re
import sys

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
        (["--config=configs/unet2d.py:debug", "--config.data.batch_size=many"], "batch_size.*many"),
        (["--config=configs/unet2d.py:debug", "--config.train.log_every=0"], r"config\.train\.log_every: is 0"),
        (["--config=configs/demo.py:debug"], r"demo\.py:debug: TypeError: get_config\(\) takes 0 positional arguments"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


BODY = "from configs.common import base_config\ndef get_config(mode=''):\n    "
BROKEN = {
    "def get_config(:": "SyntaxError",
    "import nothing_of_that_name": "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "x = 1": "AttributeError: .*has no attribute 'get_config'",
    "def get_config():\n    return 1 / 0": "ZeroDivisionError: division by zero",
    "def get_config():\n    raise ValueError('line one\\nline two')": "ValueError: line one line two",
    "def get_config():\n    return get_config()": "RecursionError",
    "import sys\nsys.exit('bye')": "SystemExit: bye",
    "def get_config():\n    return {}": "TypeError: get_config gives dict, not a ConfigDict",
    "def get_config():\n    return None": "give --config",
    "\0": "null bytes",
    BODY + "return base_config('unext3')": r"wrong\.py: config\.model\.name: 'unext3' does not exist",
    BODY + "c = base_config('unext2')\n    c.optim.learning_rate = 'fast'\n    return c": "TypeError: .*learning_rate",
    BODY + "c = base_config('unext2')\n    c.optim.eps = -1.0\n    return c": r"^config\.optim\.eps: is -1\.0",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items())
def test_a_broken_config_file_is_named_with_pythons_reason(tmp_path, monkeypatch, text, message):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # what the file before it defined
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        main([f"--config={path}"])
    line = str(caught.value)
    assert "Traceback" not in line
    assert str(path) in line or line.startswith(("config.", "command line: give"))


def test_a_config_that_is_no_file(tmp_path):
    path = tmp_path / "experiment.py"
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file"):
        main([f"--config={path}"])
