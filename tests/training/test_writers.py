"""Logs hold every step once, also after a restart."""

import json

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from vsjax.training.writers import MetricWriter


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_restart_drops_what_it_will_write_again(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (10, 20, 30):
        writer.write_scalars(step, {"loss": step / 10})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a killed process
    writer = MetricWriter(tmp_path, 20)
    writer.write_scalars(30, {"loss": -1.0})
    writer.close()
    assert read_lines(tmp_path) == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 30, "loss": -1.0},
    ]


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 15, "los', b"\x00\xff\n", b"[]\n", b'{"step": "x"}\n', b'{"step": ' + b"[" * 100_000 + b"}\n"],
    ids=["cut", "bytes", "list", "text", "nested"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_damaged_lines_are_dropped(tmp_path, damage, place):
    """Wherever they stand; what is whole and not after the step stays."""
    lines = [b'{"step": 10, "loss": 1.0}\n', b'{"step": 20, "loss": 2.0}\n']
    if damage.startswith(b'{"step": 15') and place < 2:
        damage += b"\n"
    lines.insert(place, damage)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    writer = MetricWriter(tmp_path, 20)
    writer.write_scalars(30, {"loss": 3.0})
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 30]


def test_a_metric_of_nothing_is_null(tmp_path):
    """JSON has no NaN: a column that no sample of a validation defines."""
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(10, {"val/loss": 0.5, "val/pearson/nuclei": float("nan")})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10, "val/loss": 0.5, "val/pearson/nuclei": null}\n'


def test_images_are_written_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    writer = MetricWriter(tmp_path, 0)
    writer.write_images(5, {"sample": image})
    writer.close()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / "sample_0000005.png")), image)


def test_tensorboard_file_holds_the_scalar(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(3, {"val/pearson": 0.75})
    writer.close()
    data = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    events = []
    while data:  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    values = [(event.step, v.tag, v.simple_value) for event in events for v in event.summary.value]
    assert (3, "val/pearson", 0.75) in values
