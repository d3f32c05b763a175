"""What a checkpoint says of itself, damaged: one line that names the file."""

import copy
import json
from pathlib import Path

import pytest

from vsjax.errors import UserError
from vsjax.runtime.description import make_description, read_description

CONFIG = {"model": {"name": "unext2"}, "task": {"name": "regression"}}
NORMALIZATION = {"scope": "fov", "statistic": "mean_std"}


DOCUMENT = {
    "config": CONFIG,
    "channels": {"source": {"channels": ["BF"], "normalization": NORMALIZATION}},
    "pixel_size_um": [1, 0.5, 0.5],
    "statistics": {"BF": {"mean": 1.5}},
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "channels.source.normalization.scope",
            "field",
            "scope: is 'field'; it must be 'dataset', 'fov'",
        ),
        ("channels.source.normalization.scope", 3, "channels.source.normalization"),
        ("channels.source.normalization.statistic", "mean_iqr", "normalization.statistic: is 'mean_iqr'"),
        ("channels.source.normalization.statistic", [], r"normalization.statistic: is \(\)"),
        ("channels.source.normalization.other", 1, "normalization.other: there is no such field"),
        ("channels.source.channels", ["BF", "BF"], "channels.source.channels: .* name each once"),
        ("channels.source.channels", [""], "channels.source.channels.0: is ''"),
        ("channels.source.channels", "BF", "channels.source.channels: is 'BF'"),
        ("channels.source", None, "channels.source: is None"),
        ("pixel_size_um", [1.0, 1.0], "pixel_size_um: .* three, of Z, Y and X, or none"),
        ("pixel_size_um", [1.0, 1.0, 0.0], "pixel_size_um.2: is 0.0"),
        ("pixel_size_um", [1.0, 1.0, float("nan")], "pixel_size_um.2: is nan"),
        ("statistics", {"BF": {"mean": "1"}}, "statistics.BF.mean: is '1'"),
        ("statistics", {"BF": {"mean": True}}, "statistics.BF.mean: is True"),
        ("statistics", {"BF": {"mean": float("inf")}}, "statistics.BF.mean: is inf"),
        ("statistics", {"BF": {"average": 1.0}}, "statistics.BF.average"),
        ("statistics", [1], r"statistics: is \(1,\)"),
        ("step", -1, "step: is -1"),
        ("statistics", {"BF": {"std": 1e308}}, "statistics.BF.std: is 1e[+]308"),
        ("step", 1.5, "step: is 1.5"),
        ("step", 2**31, f"step: is {2**31}"),
        (
            "config.roles",
            {"source": {**DOCUMENT["channels"]["source"], "channels": ["other"]}},
            "channels.source: differs",
        ),
        ("progress", {"best": float("nan")}, "progress.best: is nan"),
        ("progress", {"stale": -1}, "progress.stale: is -1"),
        ("config", 3, "config: is 3"),
        ("other", 3, "other: there is no such field"),
    ],
)
def test_a_field_of_the_wrong_type_or_range(tmp_path: Path, field, value, message):
    document = copy.deepcopy(DOCUMENT)
    *above, name = field.split(".")
    inner = document
    for part in above:
        inner = inner[part]
    inner[name] = value
    path = tmp_path / "description.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"description\.json\.?.*{message}") as error:
        read_description(path)
    assert "\n" not in str(error.value)


def test_what_is_written_is_read(tmp_path: Path):
    path = tmp_path / "description.json"
    path.write_text(json.dumps(DOCUMENT))
    description = read_description(path)
    path.write_text(json.dumps(description.to_json()))
    assert read_description(path) == description
    assert description.pixel_size_um == (1.0, 0.5, 0.5)


def test_a_new_one_takes_the_statistics_that_are_known():
    fields = {"config": {}, "statistics": {"BF": {"mean": 1.0, "of_another_program": "x"}}}
    assert make_description(fields, "P.zarr").statistics == {"BF": {"mean": 1.0}}
    with pytest.raises(UserError, match=r"P\.zarr\.statistics\.BF\.mean: is 'x'.*vsjax\.preprocess"):
        make_description({"config": {}, "statistics": {"BF": {"mean": "x"}}}, "P.zarr")
