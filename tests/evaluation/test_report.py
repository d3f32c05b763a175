"""Tables: numbers worked out by hand, files that other readers accept."""

import csv
import json
import math
import os
from types import SimpleNamespace

import pytest

from vsjax.evaluation import report
from vsjax.evaluation.level import Metric

METRICS = {"pearson": Metric("Pearson", "correlation", "higher"), "psnr": Metric("PSNR (dB)", "peak", "higher")}
LEVEL = SimpleNamespace(name="tone", metrics=METRICS, objects={})


def row(channel: str, pearson: float, psnr: float = 20.0, units: str = "target", position: str = "A/1/0") -> report.Row:
    return {"position": position, "time": 0, "channel": channel, "units": units, "pearson": pearson, "psnr": psnr,
            "note": ""}  # fmt: skip


ROWS = [
    row("nuclei", 0.5, math.inf),
    row("nuclei", 0.7, 30.0),
    row("nuclei", math.nan, 34.0),
    row("membrane", 0.25, math.nan),
    row("nuclei", 0.9, units="standardized"),
]


def test_summary_is_over_finite_values_and_keeps_units_apart():
    nuclei, membrane, other = report.summarize(ROWS, METRICS)
    assert (nuclei["channel"], nuclei["units"], nuclei["stacks"]) == ("nuclei", "target", 3)
    assert nuclei["pearson_mean"] == pytest.approx(0.6)
    assert nuclei["pearson_sd"] == pytest.approx(math.sqrt(0.02))  # ((-.1)² + .1²) / (2 - 1)
    assert nuclei["pearson_n"] == 2
    assert nuclei["psnr_mean"] == pytest.approx(32)
    assert (membrane["pearson_mean"], membrane["pearson_n"], membrane["psnr_n"]) == (0.25, 1, 0)
    assert math.isnan(membrane["pearson_sd"])
    assert math.isnan(membrane["psnr_mean"])
    assert (other["units"], other["pearson_mean"]) == ("standardized", 0.9)


def test_files_are_strict_json_and_csv_with_the_same_numbers(tmp_path):
    summary = {"tone": report.summarize(ROWS, METRICS)}
    report.write_tables(tmp_path, [LEVEL], {"tone": ROWS}, summary, {"target": "Prøve.zarr"})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["about"] == {"target": "Prøve.zarr"}
    assert content["metrics"]["tone/psnr"] == {"label": "PSNR (dB)", "definition": "peak", "better": "higher"}
    assert [r["tone/pearson"] for r in content["rows"]] == [0.5, 0.7, None, 0.25, 0.9]
    assert content["rows"][0]["tone/psnr"] == "inf"
    assert report.is_complete(tmp_path, {"target": "Prøve.zarr"})
    assert not report.is_complete(tmp_path, {"target": "another"})
    with (tmp_path / "tone.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [r["channel"] for r in table] == [r["channel"] for r in ROWS]
    assert [float(r["pearson"]) for r in table] == pytest.approx([r["pearson"] for r in ROWS], nan_ok=True)
    with (tmp_path / "tone_summary.csv").open(newline="", encoding="utf-8") as file:
        assert [float(r["pearson_mean"]) for r in csv.DictReader(file)] == pytest.approx([0.6, 0.25, 0.9])
    assert {path.name for path in tmp_path.iterdir()} == {"tone.csv", "tone_summary.csv", "metrics.json"}


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "pixel.csv"
    path.write_text("old")

    def interrupted() -> None:
        with report.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_printed_table_lines_up_and_shows_what_is_missing():
    lines = report.format_summary(report.summarize(ROWS, METRICS), METRICS).splitlines()
    assert lines[1].split("  ")[0] == "nuclei"
    assert "0.600 ± 0.141 (n=2)" in lines[1]
    assert "32.0 ± 2.8 (n=2)" in lines[1]
    membrane = lines[2]
    assert "0.250" in membrane
    assert "±" not in membrane
    start = lines[0].index("units")
    assert [line[start:] for line in lines[1:]] == ["target", "target", "standardized"]


@pytest.mark.parametrize(
    ("mean", "sd", "want"),
    [
        (0.0, 0.0, "0.000 ± 0.000"),
        (0.8512, 0.0123, "0.851 ± 0.012"),
        (-0.3, 0.2, "-0.300 ± 0.200"),
        (33.51, 0.94, "33.5 ± 0.9"),
        (1227.4, 403.2, "1227 ± 403"),
        (991834.0, 462000.0, "9.92e+05 ± 4.6e+05"),
        (0.00012, 0.00003, "0.00012 ± 3e-05"),
    ],
)
def test_cells_show_three_digits(mean, sd, want):
    entry = {"channel": "nuclei", "units": "target", "stacks": 2, "a_mean": mean, "a_sd": sd, "a_n": 2}
    assert want in report.format_summary([entry], {"a": Metric("A", "", None)})


def test_names_of_any_kind_are_written_and_shown(tmp_path):
    """Half a surrogate pair, which JSON can hold and UTF-8 cannot; a name of 100 kB; 4,000 channels."""
    rows = [row("\ud800", 0.5), *(row("x" * 100_000 + str(n), 0.5) for n in range(60))]
    summary = report.summarize(rows, METRICS)
    report.write_tables(tmp_path, [LEVEL], {"tone": rows}, {"tone": summary}, {"target": "a"})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["rows"][0]["channel"] == "\ud800"
    shown = report.format_summary(summary, METRICS)
    assert len(shown) < 10_000
    assert shown.endswith("... and 11 more, in metrics.json")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\x93\xff", b"[]", b'{"about": ' + b"[" * 500 + b"]" * 500 + b"}"]
)
def test_a_report_of_something_else_is_not_complete(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    assert not report.is_complete(tmp_path, {"target": "a"})


def test_a_pipe_is_no_report(tmp_path):
    os.mkfifo(tmp_path / "metrics.json")
    assert not report.is_complete(tmp_path, {"target": "a"})
