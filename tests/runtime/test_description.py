"""What a checkpoint says of itself, damaged: one line that names the file."""

import json
from pathlib import Path

import pytest

from vsjax.errors import UserError
from vsjax.runtime.description import Description, read_description

CONFIG = {"model": {"name": "unext2"}, "task": {"name": "regression"}}
NORMALIZATION = {"scope": "fov", "statistic": "mean_std"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scope", "field", r"normalization.scope.*'dataset', 'fov'"),
        ("statistic", "mean_iqr", r"normalization.statistic.*'mean_std'"),
        ("scope", 3, r"channels.source.normalization.scope"),
    ],
)
def test_a_normalization_that_does_not_exist(tmp_path: Path, field, value, message):
    document = Description(
        config=CONFIG, channels={"source": {"channels": ["BF"], "normalization": NORMALIZATION}}
    ).to_json()
    document["channels"]["source"]["normalization"][field] = value
    path = tmp_path / "description.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"description\.json: .*{message}") as error:
        read_description(path)
    assert "\n" not in str(error.value)
