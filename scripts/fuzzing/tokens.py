"""Hostile values: as JSON text, as Python literals of flags, and as names of files."""

import json
import random

DEEP = 100_000
LONG = 100_000

JSON_TOKENS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "-1": "-1",
    "1": "1",
    "1.5": "1.5",
    "-0.0": "-0.0",
    "2^31": str(2**31),
    "2^40": str(2**40),
    "-2^40": str(-(2**40)),
    "2^63": str(2**63),
    "5000 digits": "9" * 5000,
    "1e-320": "1e-320",
    "1e308": "1e308",
    "1e999": "1e999",
    "-1e999": "-1e999",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "empty text": '""',
    "text": '"text"',
    "number as text": '"1"',
    "space": '" "',
    "long text": f'"{"x" * LONG}"',
    "control characters": '"a\\u0000\\u001b[31m\\nb"',
    "lone surrogate": '"\\ud800"',
    "path up": '"../../x"',
    "absolute path": '"/etc/passwd"',
    "a dot": '"."',
    "a slash": '"A/1/"',
    "empty list": "[]",
    "empty object": "{}",
    "list of list": "[[]]",
    "list of text": '["text"]',
    "list of null": "[null]",
    "list of NaN": "[NaN, NaN, NaN]",
    "object": '{"a": {"b": 1}}',
    "deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "huge list": "[" + "0," * 200_000 + "0]",
    "huge list of text": "[" + '"a",' * 50_000 + '"a"]',
}
NOT_JSON = {
    "a bare word": "nothing",
    "a comma": ",",
    "a single quote": "'a'",
    "a comment": "/* */ 1",
    "an open list": "[1,",
}

WEIRD_NAMES = {
    "empty": "",
    "dot": ".",
    "two dots": "..",
    "300 characters": "n" * 300,
    "5000 characters": "n/" * 2500,
    "not UTF-8": "caf\udce9",
    "newline": "a\nb",
    "control": "a\x1b[31mb",
    "space": " ",
    "star": "*",
    "percent": "%2e%2e",
    "unknown scheme": "ftp://example.org/x",
    "scheme without path": "file://",
    "bucket without name": "gs://",
    "null device": "/dev/null",
    "proc": "/proc/nothing/x",
    "leading dash": "./-x",
    "emoji": "pl\N{MICROSCOPE}te",
}

FLAG_TEXTS = [
    *("", " ", "text", "-1", "0", "1", "2", "1.5", "nan", "inf", "-inf", "1e308", "1e999"),
    *(str(2**31), str(2**40), str(10**12), "9" * 5000, "x" * LONG, "../../x", "None", "True", "()", "[]", "{}", "(1,"),
    *("a=b", "a\x1b[31m", "caf\udce9", "A/1/0", "*", "--"),
]


def any_token(choose: random.Random, with_broken: bool = True) -> tuple[str, str]:
    """The name and the JSON text of one hostile value, now and then of what is no JSON at all."""
    if with_broken and choose.random() < 0.03:
        return choose.choice(list(NOT_JSON.items()))
    return choose.choice(list(JSON_TOKENS.items()))


def short(text: str, longest: int = 60) -> str:
    """For showing a mutation."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def value_of(token: str) -> object:
    """What Python's reader makes of a token; its text where it is none."""
    try:
        return json.loads(token)
    except (ValueError, RecursionError):
        return token
