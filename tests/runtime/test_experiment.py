"""Every field of a config has a type and a range, and what is wrong is refused in one line that names it; through the
check that `train` begins with, before it opens any plate."""

import importlib
import json
import math

import pytest
from ml_collections import ConfigDict

from vsjax.errors import LONGEST_LINE, UserError
from vsjax.models.registry import MODELS, network_document
from vsjax.runtime.experiment import Experiment, check_config, check_saved_config, default_sections
from vsjax.schema import Document
from vsjax.tasks.registry import TASKS, find_task, make_task, resolve
from vsjax.training.loop import train

SHORT = {
    "model": {"name": "unext2"},
    "task": {"name": "regression"},
    "roles": {
        "source": {"channels": ("BF",), "normalization": {"scope": "fov", "statistic": "mean_std"}},
        "target": {"channels": ("nuclei",), "normalization": {}},
    },
}
HUGE = 10**400


def config_with(path, value, model="unext2", task="regression"):
    """A short config with one field changed; a number in the path is a place in a tuple."""
    config = {**default_sections(), **json.loads(json.dumps(SHORT))}
    config["model"] = {"name": model, **defaults(network_document(model))}
    config["task"] = {"name": task, **defaults(find_task(task).Settings)}
    inner, (*above, last) = config, path.split(".")
    for part in above:
        if isinstance(inner[part], tuple):
            inner[part] = list(inner[part])
        inner = inner[part]
    inner[int(last) if isinstance(inner, list) else last] = value
    return ConfigDict(config)


def defaults(kind):
    fields = {name: field.get_default() for name, field in kind.model_fields.items() if not field.is_required()}
    return {name: value.model_dump() if isinstance(value, Document) else value for name, value in fields.items()}


def refusal(config):
    with pytest.raises(UserError) as caught:
        check_config(config)
    line = str(caught.value)
    assert len(line) <= LONGEST_LINE
    assert line.isprintable()
    return line


REFUSED = [
    ("seed", [-1, 2**31, True, "1", 1.5, math.nan, HUGE, None]),
    ("dtype", ["float16", 32]),
    ("roles", [{}, 3, {"source": 3}, {"source": {"labels": ("nuclei",)}}]),
    ("roles.source", [{"channels": ("BF",), "labels": ("a",)}, {"pixels": ("BF",)}]),
    ("roles.source.channels", [(), ("",), ("BF", "BF"), "BF", (1,)]),
    ("roles.source.normalization", [{"scope": "world"}, {"statistic": 1}, {"kind": "x"}, "fov"]),
    ("data.plates", ["p.zarr", ("",), (1,)]),
    ("data.weights", [(-1.0,), (0.0, 0.0), (math.nan,), ("1",), (True,)]),
    ("data.val_fraction", [-0.1, 1.0, math.nan, "a"]),
    ("data.patch", [(), (1, 2), (5, 64, 64, 1), (0, 64, 64), (5, -64, 64), (5, HUGE, 64), (5, 64.0, 64), 64]),
    ("data", [{"val_patch": (1, 64)}]),
    ("data.val_patch", [(5, -64, 64), (5, 0, 64), "no"]),
    ("data.val_patches", [0, -1]),
    ("data.batch_size", [0, 10**9, True, HUGE, 2.0]),
    ("data.prefetch", [0, 10**9]),
    ("data.read_threads", [0, -1, 10**9]),
    ("optim.learning_rate", [-1e-4, 0.0, math.nan, math.inf, HUGE, "fast", True]),
    ("optim.weight_decay", [-0.1, math.inf]),
    ("optim.eps", [-1e-8, 0.0, 1e-300]),
    ("optim.b1", [-0.1, 1.0, 1.5, math.nan]),
    ("optim.b2", [1.0]),
    ("optim.average_decay", [2, 1.0, -0.5]),
    ("optim.clip_norm", [-1.0]),
    ("optim.warmup_steps", [-1]),
    ("optim.warmup_epochs", [-1]),
    ("optim.schedule", ["step"]),
    ("optim.part_rates", [{"encoder": -1.0}, {"encoder": "x"}, 1.0]),
    ("train.steps", [0, 2**31, -5, HUGE]),
    ("train.epochs", [-1, HUGE]),
    ("train.log_every", [0]),
    ("train.validate_every", [0]),
    ("train.save_every", [-1]),
    ("train.accumulate", [0, -2]),
    ("train.best", [""]),
    ("train.patience", [-1]),
    ("predict.tta", ["nope", None, True]),
    ("mesh.data", [0, -2, 1.0]),
    ("mesh.space", [0]),
    ("task.name", ["magic", 3, ["regression"]]),
    ("task.loss.l1", [-1.0, math.nan, "x"]),
    ("task.loss.scales", [0, 6]),
    ("task.loss", [{"l1": 0.0, "l2": 0.0, "ms_dssim": 0.0}, {"l3": 1.0}]),
    ("augment.rotation_probability", [-0.1, 1.1, True]),
    ("augment.elastic_spacing", [1e-9, 0.0]),
    ("augment.illumination_spacing", [1e-9]),
    ("augment.gamma_range", [(1.2, 0.8), (0.0, 1.0), (1.0,), 1.0]),
    ("augment", [{"elastic_probability": 0.5, "elastic_amplitude": 20.0}]),
    ("model.name", ["unext3", 3, ["unext2"]]),
    ("model.backbone", ["resnet", 7, ((1, 1, 1), (8, 8, 8)), ((10**6, 1, 1, 1), (8, 8, 8, 8)), ((0,) * 4, (8,) * 4)]),
    ("model.stem_kernel_size", [(0, 4, 4), (5, 4, 10**9), (), "x"]),
    ("model.drop_path_rate", [math.nan, 1.0, -0.1]),
    ("model.input_gain", [0.0, math.nan]),
    ("model.decoder_conv_blocks", [0, 10**6]),
    ("model.depthwise", ["fast"]),
    ("model.backbon", ["x"]),
    ("optim.learning_rat", [1e-3]),
    ("optimiser", [{}]),
]


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in REFUSED for value in values])
def test_what_cannot_be_is_refused_in_one_line(path, value):
    line = refusal(config_with(path, value))
    assert line.startswith(f"config.{path}")
    assert "; " in line


def bounded(schema, definitions, path=()):
    """(path, a value just outside) of every number in a JSON schema that has bounds."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    whole = schema.get("type") == "integer"
    for bound, outside in (
        ("minimum", lambda least: least - 1 if whole else math.nextafter(least, -math.inf)),
        ("maximum", lambda most: most + 1 if whole else math.nextafter(most, math.inf)),
        ("exclusiveMinimum", lambda least: least),
        ("exclusiveMaximum", lambda most: most),
    ):
        if bound in schema:
            yield ".".join(path), outside(schema[bound])
    for name, inner in schema.get("properties", {}).items():
        yield from bounded(inner, definitions, (*path, name))
    for index, inner in enumerate(schema.get("prefixItems", ())):
        yield from bounded(inner, definitions, (*path, str(index)))


def kinds():
    """(section, document, network, task) of everything that a config may hold."""
    for name, field in Experiment.model_fields.items():
        if name not in ("model", "task") and getattr(field.annotation, "model_fields", {}):
            yield name, field.annotation, "unext2", "regression"
    for name, network in MODELS.items():
        if network.__module__.startswith("vsjax."):  # not the toys that other tests register
            yield "model", network_document(name), name, "regression"
    for name, task in TASKS.items():
        if task.__module__.startswith("vsjax."):
            yield "task", task.Settings, "unext2", name


@pytest.mark.parametrize(("section", "kind", "model", "task"), list(kinds()), ids=lambda value: str(value))
def test_a_number_just_outside_its_range_is_refused(section, kind, model, task):
    schema = kind.model_json_schema()
    cases = list(bounded(schema, schema.get("$defs", {})))
    for path, value in cases:
        line = refusal(config_with(f"{section}.{path}", value, model, task))
        assert line.startswith(f"config.{section}.{path}: is {value!r}; it must be "), line
    assert cases or section in ("init", "predict")


@pytest.mark.parametrize("kind", [kind for _, kind, _, _ in kinds()], ids=lambda kind: kind.__name__)
def test_every_number_has_a_range(kind):
    """A number without bounds is not checked at all."""

    def unbounded(schema, path=""):
        schema = schema if isinstance(schema, dict) else {}
        if schema.get("type") in ("integer", "number"):
            ends = [any(end in name.lower() for name in schema) for end in ("minimum", "maximum")]
            return [] if all(ends) else [path]
        inner = [*schema.get("properties", {}).items(), *enumerate(schema.get("prefixItems", ()))]
        inner += [
            (name, schema[name]) for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)
        ]
        inner += [("", branch) for branch in schema.get("anyOf", ())]
        inner += list(schema.get("$defs", {}).items())
        return [found for name, below in inner for found in unbounded(below, f"{path}.{name}")]

    assert unbounded(kind.model_json_schema()) == []


def test_sections_within_sections_end():
    deep = {}
    for _ in range(600):
        deep = {"a": deep}
    assert "nested too deeply" in refusal(ConfigDict({**SHORT, "more": deep}))


def test_a_short_config_is_completed():
    config = check_config(ConfigDict(SHORT))
    assert config.optim.learning_rate == 2e-4
    assert config.model.to_dict() == {"name": "unext2"}  # what is left out follows from the data
    task = make_task(resolve(config))
    assert task.model.in_channels == 1
    assert task.inputs.patch == (5, 256, 256)
    assert check_config(config) == config


def test_a_config_is_refused_before_a_plate_is_opened(tmp_path):
    config = importlib.import_module("configs.unext2").get_config("debug")
    config.data.plates = ("there/is/no.zarr",)
    config.train.log_every = 0
    with pytest.raises(
        UserError, match=r"^config\.train\.log_every: is 0; it must be greater than or equal to 1 \(steps"
    ):
        train(config, tmp_path / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["model", "task", "roles"])
def test_a_section_without_a_default_must_be_there(missing):
    config = {name: section for name, section in SHORT.items() if name != missing}
    assert refusal(ConfigDict(config)).startswith(f"config.{missing}")


def test_what_a_checkpoint_says_of_its_config_is_checked_too():
    saved = {"model": {"name": "unet2d", "in_channels": 2}, "task": {"name": "regression"}, "predict": {"tta": "mean"}}
    check_saved_config(saved, "a: config")
    check_saved_config({**saved, "first": saved}, "a: config")
    for change, line in (
        ({"model": {"name": "unet2d", "dropout": 7}}, "a: config.model.dropout: is 7; "),
        ({"model": None}, "a: config.model.name: None does not exist"),
        ({"task": {}}, "a: config.task.name: None does not exist"),
        ({"predict": {"tta": "all"}}, "a: config.predict.tta: is 'all'; "),
        ({"first": 3}, "a: config.first: is 3"),
        ({"first": {**saved, "dtype": "int8"}}, "a: config.first.dtype: is 'int8'"),
        ({"more": 1}, "a: config.more: there is no such field"),
    ):
        with pytest.raises(UserError) as caught:
            check_saved_config({**saved, **change}, "a: config")
        assert str(caught.value).startswith(line)
