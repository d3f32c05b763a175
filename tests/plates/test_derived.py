"""A plate made from a plate by a toy step: the pixels, the record, what is refused, and what a kill leaves behind."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from toy_step import Bright, LastChannelCropped, Power

from vsjax.errors import UserError
from vsjax.plates.derived import Listener, make_plate
from vsjax.plates.derived_record import read_plate_record, read_position_record
from vsjax.plates.reader import open_plate
from vsjax.plates.step import ImageInfo, Result, chain

PROGRAM = Path(__file__).parent / "toy_step.py"
NAMES = [f"{row}/{column}/0" for row in "AB" for column in range(2)]
TIMES = 5


@pytest.fixture
def source(tmp_path, zarr_plate):
    random = np.random.default_rng(0)
    images = {name: random.integers(0, 9, (TIMES, 2, 3, 8, 10)).astype(np.uint8) for name in NAMES}
    options = {"version": "0.5", "channels": ["a", "b"], "scale": [60.0, 1.0, 2.0, 0.5, 0.5], "note": {"by": "me"}}
    return zarr_plate(tmp_path / "P.zarr", images, **options, normalization={"a": {"fov_statistics": {"mean": 1}}})


def pixels(path, names=NAMES):
    return {name: zarr.open_array(path / name / "0", mode="r")[...] for name in names}


def record(path, name=""):
    return json.loads((path / name / "zarr.json").read_text())["attributes"].get("vsjax")


def test_every_pixel_and_what_the_plate_says(source, tmp_path):
    summary = make_plate(Power(3, note="first"), source, tmp_path / "Q.zarr")
    assert (summary.made, summary.finished_before, summary.complete) == (4, 0, True)
    given, made = pixels(source), pixels(tmp_path / "Q.zarr")
    for name in NAMES:
        np.testing.assert_array_equal(made[name], np.minimum(given[name].astype(np.float32) ** 3, 1000))
        attributes = open_plate(tmp_path / "Q.zarr")[name].attributes
        assert attributes["note"] == {"by": "me"}
        assert "normalization" not in attributes, "statistics of other pixels"
        assert (record(tmp_path / "Q.zarr", name)["finished"], record(tmp_path / "Q.zarr", name)["step"]) == (
            True,
            "power",
        )
    top = record(tmp_path / "Q.zarr")
    assert (top["settings"], top["about"]) == ({"power": {"of": 3}}, {"note": "first"})
    assert (top["resolved"], top["complete"], top["positions"]) == ({"limit": {"value": 1000}}, True, "all")
    assert top["input"] == str(source)


def test_a_chain_is_one_after_the_other(source, tmp_path):
    """In memory, with the types that the plates between would have."""
    steps = (Power(3), LastChannelCropped(), Power(2))
    make_plate(chain(steps), source, tmp_path / "chain.zarr", positions=NAMES[:2])
    url = source
    for number, step in enumerate(steps):
        make_plate(step, url, tmp_path / f"{number}.zarr", positions=NAMES[:2])
        url = tmp_path / f"{number}.zarr"
    one, two = pixels(tmp_path / "chain.zarr", NAMES[:2]), pixels(url, NAMES[:2])
    for name in NAMES[:2]:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name])
        chained, stepwise = (ImageInfo.of(open_plate(path)[name]) for path in (tmp_path / "chain.zarr", url))
        assert (chained.channel_names, chained.scale) == (stepwise.channel_names, stepwise.scale)
        assert chained.attributes == stepwise.attributes == {"note": {"by": "me"}}
    top = record(tmp_path / "chain.zarr")
    assert top["step"] == "power + corner + power"
    assert top["settings"]["2 corner"] == {"offset": 0.1}
    assert top["resolved"] == {"1 power limit": {"value": 1000}, "3 power limit": {"value": 100}}
    with pytest.raises(UserError, match=r"was started with 2 corner.offset = 0.1, but this command has 0.2"):
        make_plate(
            chain((Power(3), LastChannelCropped(0.2), Power(2))), source, tmp_path / "chain.zarr", positions=NAMES[:2]
        )


def check_bright(source, output, times=None, label="bright", above=4, key=None):
    """Labels and findings of the time points that are marked, against what the pixels say."""
    plate = open_plate(output)
    for name, stack in pixels(source).items():
        if times is not None and name not in times:
            continue
        position, bright = plate[name], stack[:, :1] > above
        marked = TIMES if times is None else times[name]
        if not marked:  # the labels may not be there yet
            continue
        assert position.label_names() == (label,)
        labels = position.label(label)
        assert labels.dtype.numpy_dtype == np.int32
        np.testing.assert_array_equal(labels[:marked].read().result(), bright[:marked] * 70_000)
        found = read_position_record(position).found
        assert list(found) == [str(time) for time in range(marked) if bright[time].any()]
        for time_point, says in found.items():
            says = says[key] if key else says
            assert says == {"share": bright[int(time_point)].mean(), "at": (int(time_point),)}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_and_findings(source, tmp_path, version):
    """One time point has nothing bright, of which nothing is said."""
    zarr.open_array(source / "A/1/0/0", mode="r+")[2, 0] = 0
    make_plate(Bright(), source, tmp_path / "Q.zarr", ngff_version=version)
    check_bright(source, tmp_path / "Q.zarr")
    assert "2" not in read_position_record(open_plate(tmp_path / "Q.zarr")["A/1/0"]).found
    assert open_plate(tmp_path / "Q.zarr")["A/1/0"].find_attribute("note") == {"by": "me"}


def is_complete(output):
    return output.exists() and read_plate_record(output).complete


def test_labels_and_findings_survive_kills(source, tmp_path):
    output, kills = tmp_path / "Q.zarr", 0
    while True:
        goal = sum(marked(output).values()) + 5
        running = start(source, output, 0.05, step="bright")
        while running.poll() is None and sum(marked(output).values()) < goal:
            time.sleep(0.002)
        running.kill()
        _, stderr = running.communicate(timeout=60)
        assert running.returncode in (0, -signal.SIGKILL), stderr
        check_bright(source, output, times=marked(output))
        if running.returncode == 0 or is_complete(output):  # it may have been killed while Python exits
            break
        kills += 1
    assert kills >= 2
    check_bright(source, output)


def test_a_chain_passes_labels_and_findings_on(source, tmp_path):
    make_plate(chain((Bright(), Power(1))), source, tmp_path / "Q.zarr")
    check_bright(source, tmp_path / "Q.zarr", key="1 bright")
    two = chain((Bright(), Power(1), Bright(above=6, label="brighter")))
    make_plate(two, source, tmp_path / "two.zarr")
    position = open_plate(tmp_path / "two.zarr")["B/1/0"]
    assert position.label_names() == ("bright", "brighter")
    expected = (pixels(source)["B/1/0"][:, :1] > 6) * 70_000
    np.testing.assert_array_equal(position.label("brighter").read().result(), expected)
    assert list(read_position_record(position).found["0"]) == ["1 bright", "3 bright"]
    for steps, message in (
        ((Bright(), LastChannelCropped()), "one after 1 bright gives the image another size"),
        ((Bright(), Bright()), "two give labels of one name"),
    ):
        with pytest.raises(UserError, match=message):
            make_plate(chain(steps), source, tmp_path / "no.zarr")
    assert not (tmp_path / "no.zarr").exists()


@pytest.mark.parametrize(
    ("labels", "error"),
    [({}, ValueError), ({"bright": np.ones((3, 8, 9), int)}, ValueError), ({"bright": np.ones((3, 8, 10))}, ValueError),
     ({"bright": np.full((3, 8, 10), 2**31)}, UserError)],
)  # fmt: skip
def test_labels_that_a_step_did_not_declare(source, labels, error):
    derived = Bright().derive(ImageInfo.of(open_plate(source)["A/0/0"]))
    stack = np.zeros((1, 3, 8, 10), np.uint8)
    with pytest.raises(error, match="label"):
        replace(derived, apply=lambda stack, time_point, job: Result(stack, labels)).compute(stack, 0, None)


def test_it_refuses_to_mix(source, tmp_path):
    output = tmp_path / "Q.zarr"
    make_plate(Power(2, note="x"), source, output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other = make_plate(Power(1), source, tmp_path / "other.zarr") and tmp_path / "other.zarr"
    for step, url, options, message in (
        (Power(2), source, {}, "is complete already"),
        (Power(2), source, {"positions": ["A/0/0"]}, "started with positions = 'all'"),
        (Power(3), source, {}, r"started with power.of = 2, but this command has 3; .* --overwrite"),
        (Power(2), other, {}, "started with input = "),
        (Power(2), source, {"ngff_version": "0.4"}, "started with ngff_version = '0.5'"),
        (LastChannelCropped(), source, {}, "started with step = 'power'"),
    ):
        with pytest.raises(UserError, match=message):
            make_plate(step, url, output, **options)
    make_plate(Power(2, note="what it is told beside decides nothing"), source, output, skip_complete=True)
    with pytest.raises(UserError, match=r"P\.zarr: exists already and was not made by this command"):
        make_plate(Power(2), output, source)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("", "settings", 3, "zarr.json: vsjax.settings: is 3; it must be a valid dictionary"),
        ("", "positions", [1], "zarr.json: vsjax.positions"),
        ("", "complete", "yes", "zarr.json: vsjax.complete: is 'yes'; it must be a valid boolean"),
        ("", "ngff_version", "0.6", "zarr.json: vsjax.ngff_version: is '0.6'"),
        ("A/1/0", "found", [], r"A/1/0/zarr.json: vsjax.found: is \(\); it must be a valid dictionary"),
        ("A/1/0", "mine", 1, "A/1/0/zarr.json: vsjax.mine: there is no such field"),
        (
            "A/1/0",
            "finished_time_points",
            "2",
            "A/1/0/zarr.json: vsjax.finished_time_points: is '2'; it must be a valid integer",
        ),
    ],
)
def test_a_damaged_record_is_named(source, tmp_path, name, field, value, message):
    make_plate(Power(), source, tmp_path / "Q.zarr")
    for where in ("", name):
        path = tmp_path / "Q.zarr" / where / "zarr.json"
        document = json.loads(path.read_text())
        document["attributes"]["vsjax"].pop("complete", None)
        document["attributes"]["vsjax"].update({field: value} if where == name else {})
        path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        make_plate(Power(), source, tmp_path / "Q.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finished": False, "finished_time_points": TIMES + 1},
            f"finished_time_points: is {TIMES + 1}, but the image has {TIMES}",
        ),
        ({"finished": True, "finished_time_points": 0}, f"is 0, but the image has {TIMES} and is finished"),
        ({"finished": False, "finished_time_points": 1, "settings": {"exponent": 9.0}}, "A/1/0/.* was started with"),
        ({"finished": False, "finished_time_points": 1, "input": "/another.zarr"}, "A/1/0/.* was started with input"),
    ],
)
def test_an_image_whose_record_contradicts_its_pixels_or_its_plate(source, tmp_path, change, message):
    """It would be left half made, or half of it be made by other settings."""
    make_plate(Power(), source, tmp_path / "Q.zarr")
    for name, changes in (("", {"complete": False}), ("A/1/0", change)):
        path = tmp_path / "Q.zarr" / name / "zarr.json"
        document = json.loads(path.read_text())
        document["attributes"]["vsjax"].update(changes)
        path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        make_plate(Power(), source, tmp_path / "Q.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_single_image_resumes_within_its_time_points(tmp_path, zarr_image, version):
    """Its one document holds what the plate and what the image says."""
    image = np.random.default_rng(0).integers(0, 9, (TIMES, 3, 8, 8)).astype(np.uint8)
    group = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    zarr_image(group, image, "tzyx", version)

    class Stop(Listener):
        rest = 9

        def slices_done(self, slices):
            self.rest -= slices
            if not self.rest:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_plate(Power(), tmp_path / "i.zarr", tmp_path / "q.zarr", listener=Stop())
    says = open_plate(tmp_path / "q.zarr").attributes["vsjax"]
    assert (says["finished_time_points"], says["resolved"]) == (2, {"limit": {"value": 100}})
    assert make_plate(Power(), tmp_path / "i.zarr", tmp_path / "q.zarr").complete
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "q.zarr/0", mode="r")[...], image.astype(np.float32) ** 2)
    with pytest.raises(UserError, match="complete already"):
        make_plate(Power(), tmp_path / "i.zarr", tmp_path / "q.zarr")


class Met(Power):
    """Each time point waits for another one to be computed at the same time; tells the most that were."""

    def derive(self, image):
        derived = super().derive(image)

        def apply(stack, time_point, job):
            self.now.append(time_point)
            self.most.append(len(self.now))
            self.barrier.wait(timeout=30)
            self.now.remove(time_point)
            return derived.apply(stack, time_point, job)

        return replace(derived, apply=apply)

    barrier, now, most = threading.Barrier(2), [], []


def test_two_time_points_are_computed_at_once_and_written_in_order(source, tmp_path):
    make_plate(Met(), source, tmp_path / "Q.zarr")
    given, made = pixels(source), pixels(tmp_path / "Q.zarr")
    for name in NAMES:
        np.testing.assert_array_equal(made[name], given[name].astype(np.float32) ** 2)
    assert max(Met.most) == 2, "a third stack lay in the memory"


def test_an_error_ends_what_is_computed_beside_it(source, tmp_path):
    """What came before it is kept, what comes after it stops at the next word of its progress."""
    begun = threading.Event()

    class Failing(Power):
        def derive(self, image):
            def apply(stack, time_point, job):
                if time_point == 3:
                    begun.set()
                    while True:  # until it is told to stop
                        job.progress(0.0)
                        time.sleep(0.001)
                if time_point == 2:
                    assert begun.wait(timeout=30)
                    raise UserError("no")
                return Result(stack)

            return replace(super().derive(image), apply=apply)

    with pytest.raises(UserError, match="A/0/0, time point 2: no"):
        make_plate(Failing(), source, tmp_path / "Q.zarr")
    assert marked(tmp_path / "Q.zarr") == {"A/0/0": 2}
    assert not any(thread.name.startswith("compute") for thread in threading.enumerate())


def start(source, output, sleep_s, process=0, processes=1, step="power"):
    command = [sys.executable, PROGRAM, step, source, output, sleep_s, process, processes]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def marked(output, names=NAMES):
    """Time points that are marked as finished, by position."""
    found = {name: record(output, name) for name in names if (output / name / "zarr.json").exists()}
    return {name: says["finished_time_points"] for name, says in found.items() if says}


def check_marked(output, source):
    """What is marked is on disk, whole."""
    given = pixels(source)
    for name, times in marked(output).items():
        made = zarr.open_array(output / name / "0", mode="r")[:times]
        np.testing.assert_array_equal(made, given[name][:times].astype(np.float32) ** 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_it_resumes_and_computes_nothing_twice(source, tmp_path, processes):
    """SIGKILL after every few time points: what was marked as finished is not computed again."""
    output, kills, computed = tmp_path / "Q.zarr", 0, []
    for _ in range(12):
        before = marked(output)
        running = [start(source, output, 0.05, process, processes) for process in range(processes)]
        goal = sum(before.values()) + 6
        while any(p.poll() is None for p in running) and sum(marked(output).values()) < goal:
            time.sleep(0.002)
        for process in running:
            process.kill()
        ends = [process.communicate(timeout=60) for process in running]
        lines = [line.split() for stdout, _ in ends for line in stdout.splitlines()]
        computed = [name for name, *what in lines if what == ["computed"]]
        for name in NAMES:
            assert computed.count(name) <= TIMES - before.get(name, 0), "a finished time point was computed again"
        check_marked(output, source)
        if all(process.returncode == 0 for process in running):
            assert any(["complete"] in ([stdout.splitlines()[-1:]]) for stdout, _ in ends)
            break
        assert {process.returncode for process in running} <= {0, -signal.SIGKILL}, ends
        if is_complete(output):  # killed while Python exits
            break
        kills += 1
    assert kills >= 2
    assert marked(output) == dict.fromkeys(NAMES, TIMES)
    assert record(output)["complete"]
