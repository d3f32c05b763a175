"""Typed documents: what is wrong is named, in one bounded line."""

import json
from typing import Literal

import pytest
from pydantic import Field

from vsjax.errors import LONGEST_LINE, UserError
from vsjax.schema import DEEPEST_JSON, Document, parse, parse_object


class Inner(Document):
    scope: Literal["fov", "dataset"] = "fov"
    kernel: tuple[int, int] = (1, 1)


class Outer(Document):
    size: int = Field(ge=1, description="patches per step")
    rate: float = 0.1
    inner: Inner = Inner()
    roles: dict[str, Inner] = Field(default={})


def refusal(value):
    with pytest.raises(UserError) as caught:
        parse(Outer, value, "config", "correct it")
    return str(caught.value)


def test_a_document_has_lists_or_tuples():
    made = parse(Outer, {"size": 3, "rate": 1, "inner": {"kernel": [2, 3]}}, "config", "")
    assert made == Outer(size=3, rate=1.0, inner=Inner(kernel=(2, 3)))
    assert parse(Outer, json.loads(json.dumps(made.model_dump())), "config", "") == made


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({}, "config.size: is missing (patches per step); correct it"),
        ({"size": 0}, "config.size: is 0; it must be greater than or equal to 1 (patches per step); correct it"),
        ({"size": True}, "config.size: is True; it must be a valid integer (patches per step); correct it"),
        ({"size": 1, "rate": float("nan")}, "config.rate: is nan; it must be a finite number; correct it"),
        ({"size": 1, "sizes": 1}, "config.sizes: there is no such field; there are size, rate, inner, roles"),
        ({"size": 1, "roles": {"a": {"x": 1}}}, "config.roles.a.x: there is no such field; there are scope, kernel"),
        ({"size": 1, "inner": {"scope": "all"}}, "config.inner.scope: is 'all'; it must be 'fov' or 'dataset'"),
        ({"size": 1, "inner": {"kernel": [1]}}, "config.inner.kernel.1: is missing"),
        (["size"], "config: is ('size',); it must be a valid dictionary"),
    ],
)
def test_the_first_wrong_field_is_named(value, line):
    assert refusal(value).startswith(line)


def test_what_is_echoed_is_cut():
    line = refusal({"size": "x" * 100_000})
    assert line.startswith("config.size: is 'xxx")
    assert line.endswith("correct it")
    assert len(line) < 250
    assert "too large" in refusal({"size": 1, "rate": 10**5000})


def test_an_error_is_one_line_whatever_it_holds():
    line = str(UserError("a.zarr:\n" + "y" * 10**6 + "\x1b[2J\n; remedy"))
    assert len(line) <= LONGEST_LINE
    assert line.isprintable()
    assert line.startswith("a.zarr: yyy")
    assert line.endswith("remedy")


@pytest.mark.parametrize("deep", [b'{"a":' * 100_000, b'{"a":' + b"[" * 999 + b"]" * 999 + b"}"])
def test_deep_json_is_refused(deep):
    with pytest.raises(UserError, match=r"^f\.json: is (not valid JSON|nested more)"):
        parse_object(deep, "f.json", "write it again")


def test_json_as_deep_as_allowed_is_read():
    document = {}
    for _ in range(DEEPEST_JSON):
        document = {"a": document}
    assert parse_object(json.dumps(document), "f.json", "") == document
    with pytest.raises(UserError, match="nested"):
        parse_object(json.dumps({"a": document}), "f.json", "")
