"""Prediction of plates: what is written, what is refused, and what a killed run leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from local_network import STATISTICS, save_checkpoint

from vsjax.errors import UserError
from vsjax.inference.plates import predict_plate
from vsjax.inference.predictor import load
from vsjax.inference.settings import PredictionSettings
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate
from vsjax.runtime.checkpoint import load_checkpoint, save_variables

NAMES = ["A/1/0", "A/1/1", "B/02/0"]
DRIVER = Path(__file__).parent / "run_predict.py"


def make_plate(
    path, *, version="0.5", names=NAMES, shape=(2, 2, 4, 12, 20), axes="tczyx", dtype=np.uint16, is_hcs=True
):
    """A plate of random images with channels DAPI and Phase (or Phase alone), and its statistics."""
    writer = create_plate(path, ngff_version=version, is_hcs=is_hcs)
    random = np.random.default_rng(0)
    for name in names:
        position = writer.create_position(
            name,
            shape=shape,
            dtype=dtype,
            channel_names=["DAPI", "Phase"][2 - shape[1] :],
            pixel_size_um=(0.5, 0.2, 0.2),
            scale=(30.0, 1.0, 0.5, 0.2, 0.2),
            axes=axes,
        )
        position.array().write(random.gamma(2, 1000, size=shape).astype(dtype)).result()
    write_statistics(open_plate(path), grid=1)
    return open_plate(path)


@pytest.fixture
def predictor(tmp_path):
    save_checkpoint(tmp_path / "run", target=("nuclei", "membrane"))
    return load(tmp_path / "run")


def pixels(path):
    """Every array of a zarr hierarchy, read by zarr-python."""
    group = zarr.open_group(path, mode="r")
    return {name: np.asarray(item) for name, item in group.members(max_depth=None) if isinstance(item, zarr.Array)}


@pytest.mark.parametrize(("version", "ngff"), [("0.4", None), ("0.5", None), ("0.5", "0.4")])
def test_plate_in_plate_out(tmp_path, predictor, version, ngff):
    """Every position and time point as the predictor gives it for the array, in the input's layout."""
    source = make_plate(tmp_path / "P.zarr", version=version)
    summary = predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", ngff_version=ngff)
    assert (summary.made, summary.finished_before) == (3, 0)
    output = open_plate(tmp_path / "S.zarr")
    assert output.ngff_version == (ngff or version)
    assert list(output.position_names) == NAMES
    assert not (tmp_path / "S.zarr" / "B" / "2").exists()
    for name in NAMES:
        position, original = output[name], source[name]
        assert position.channel_names == ("nuclei_prediction", "membrane_prediction")
        assert (position.axes, position.scale, position.dtype) == ("tczyx", original.scale, np.float32)
        statistics = {"Phase": original.attributes["normalization"]["Phase"]["fov_statistics"]}
        volume = np.asarray(original.array()[:, 1:].read().result())
        expected = predictor.predict(volume, statistics=statistics)
        stored = zarr.open_array(tmp_path / "S.zarr" / name / "0", mode="r")[:]
        assert np.array_equal(stored, expected)


def test_output_says_what_made_it(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr")
    settings = PredictionSettings(units="target")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", settings=settings)
    output = open_plate(tmp_path / "S.zarr")
    for attributes in (output.attributes["vsjax"], output["A/1/1"].attributes["vsjax"]):
        about = attributes["about"]["prediction"]
        assert about["checkpoint"] == predictor.checkpoint
        assert Path(about["checkpoint"]["path"]).is_relative_to(tmp_path / "run")
        assert about["units"] == "target"
        assert about["normalization"]["membrane"] == {"location": STATISTICS["median"], "scale": STATISTICS["iqr"]}
    assert output["A/1/1"].attributes["vsjax"]["finished"] is True
    assert output.attributes["vsjax"]["complete"] is True
    stored = np.asarray(output["A/1/1"].array().read().result())
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "N.zarr")
    normalized = np.asarray(open_plate(tmp_path / "N.zarr")["A/1/1"].array().read().result())
    np.testing.assert_allclose(stored, normalized * STATISTICS["iqr"] + STATISTICS["median"], rtol=1e-6)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "tzyx"])
def test_single_image_keeps_its_axes(tmp_path, version, axes):
    save_checkpoint(tmp_path / "run", scope="fov")
    shape = (2 if "t" in axes else 1, 2 if "c" in axes else 1, 4, 9, 11)
    make_plate(tmp_path / "P.zarr", version=version, names=["0"], shape=shape, axes=axes, is_hcs=False)
    names = open_plate(tmp_path / "P.zarr")["0"].channel_names
    predictor = load(tmp_path / "run")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", source_channels=names[-1:])
    output = open_plate(tmp_path / "S.zarr")
    assert not output.is_hcs
    assert (output["0"].axes, output["0"].shape) == (axes, (shape[0], 1, *shape[2:]))
    assert output["0"].attributes["vsjax"]["finished"] is True
    with pytest.raises(UserError, match="complete already"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", source_channels=names[-1:])


def test_two_targets_of_an_image_without_channels_get_a_channel_axis(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr", names=["0"], shape=(1, 1, 4, 8, 8), axes="zyx", is_hcs=False)
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    assert open_plate(tmp_path / "S.zarr")["0"].axes == "czyx"


@pytest.mark.parametrize("name", ["iohub-0.2.3.post1_v04.zarr", "iohub-0.3.0a7_v05.zarr", "ngio-1.1.3_v04.zarr"])
def test_plates_of_other_writers(tmp_path, shared, name):
    path = shared / "data" / "foreign_plates" / "written_from_isl" / name
    save_checkpoint(tmp_path / "run", scope="patch", in_stack_depth=1, out_stack_depth=1)
    source = open_plate(path)
    first = next(source.positions())
    predictor = load(tmp_path / "run")
    predict_plate(predictor, path, tmp_path / "S.zarr", source_channels=first.channel_names[:1])
    output = open_plate(tmp_path / "S.zarr")
    assert list(output.position_names) == list(source.position_names)
    stored = np.asarray(output[first.name].array()[0, 0].read().result())
    volume = np.asarray(first.array()[0, 0].read().result())
    assert np.array_equal(stored, predictor.predict(volume)[..., 0])
    assert output[first.name].pixel_size_um == first.pixel_size_um


def test_positions_that_are_named(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", positions=["B/02/0"])
    assert list(open_plate(tmp_path / "S.zarr").position_names) == ["B/02/0"]
    with pytest.raises(UserError, match="C/1/0"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "T.zarr", positions=["C/1/0"])
    assert not (tmp_path / "T.zarr").exists()


def test_processes_share_the_positions(tmp_path, predictor):
    """Two processes write, each its own positions, what one writes alone."""
    make_plate(tmp_path / "P.zarr")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "one.zarr")
    counts = []
    for process in range(2):
        summary = predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "two.zarr", process=process, processes=2)
        counts.append(summary.made)
    assert counts == [2, 1]
    one, two = pixels(tmp_path / "one.zarr"), pixels(tmp_path / "two.zarr")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_refusals_leave_everything_as_it_was(tmp_path, predictor):
    """Each is one line with the remedy, before anything is written."""
    source = make_plate(tmp_path / "P.zarr")
    url, output = tmp_path / "P.zarr", tmp_path / "S.zarr"
    predict_plate(predictor, url, output)
    save_checkpoint(tmp_path / "deep", in_stack_depth=7, target=("nuclei", "membrane"))
    save_checkpoint(tmp_path / "other", seed=1, target=("nuclei", "membrane"))
    save_checkpoint(tmp_path / "gfp", source=("GFP",))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").write_text("mine")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def refuse(message, predictor=predictor, target=output, **options):
        with pytest.raises(UserError, match=message) as error:
            predict_plate(predictor, url, target, **options)
        assert "\n" not in str(error.value)

    refuse(r"S.zarr: is complete already.*--overwrite")
    refuse("started with checkpoint.fingerprint", predictor=load(tmp_path / "other"))
    refuse("started with tta = 'none'.*'mean'", settings=PredictionSettings(tta="mean"))
    refuse("started with positions = 'all'", positions=["A/1/0"])
    refuse("started with ngff_version", ngff_version="0.4")
    refuse("lie in one another", target=url)
    refuse("lie in one another", target=url, overwrite=True)
    refuse("lie in one another", target=url / "A" / "S.zarr")
    refuse("lie in one another", target=tmp_path, overwrite=True)
    refuse("notes", target=tmp_path / "notes")
    refuse("notes", target=tmp_path / "notes", overwrite=True)
    refuse(r"'GFP' does not exist.*DAPI.*Phase", predictor=load(tmp_path / "gfp"), target=tmp_path / "T.zarr")
    refuse("4 slices .* at least 7", predictor=load(tmp_path / "deep"), target=tmp_path / "T.zarr")
    refuse("takes 1: Phase", source_channels=["DAPI", "Phase"], target=tmp_path / "T.zarr")
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert source["A/1/0"].shape == (2, 2, 4, 12, 20)


def test_overwrite_replaces_the_output(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", positions=["A/1/0"])
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr", positions=["A/1/1"], overwrite=True)
    assert list(open_plate(tmp_path / "S.zarr").position_names) == ["A/1/1"]


def test_missing_statistics_name_the_command(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr")
    document = tmp_path / "P.zarr" / "A" / "1" / "1" / "zarr.json"
    attributes = json.loads(document.read_text())
    del attributes["attributes"]["normalization"]["Phase"]["fov_statistics"]
    document.write_text(json.dumps(attributes))
    with pytest.raises(UserError, match=r"A/1/1.*python -m vsjax.preprocess --plate"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    assert not (tmp_path / "S.zarr").exists()


def test_bad_pixels_stop_at_their_position_and_what_is_finished_stays(tmp_path, predictor):
    source = make_plate(tmp_path / "P.zarr", dtype=np.float32)
    good = np.asarray(source["A/1/1"].array()[1, 1, 2].read().result())
    source["A/1/1"].array()[1, 1, 2].write(np.full_like(good, np.nan)).result()
    with pytest.raises(UserError, match=r"A/1/1, time point 1: channel 'Phase': 240 of 960 pixels .* are NaN"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    output = open_plate(tmp_path / "S.zarr")
    assert output["A/1/0"].attributes["vsjax"]["finished"] is True
    unfinished = output["A/1/1"].attributes["vsjax"]
    assert (unfinished["finished"], unfinished["finished_time_points"]) == (False, 1)
    source["A/1/1"].array()[1, 1, 2].write(good).result()
    summary = predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    assert (summary.made, summary.finished_before) == (2, 1)
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "whole.zarr")
    continued, whole = pixels(tmp_path / "S.zarr"), pixels(tmp_path / "whole.zarr")
    assert all(np.array_equal(continued[name], whole[name]) for name in whole)


def test_truncated_chunk_is_named(tmp_path, predictor):
    make_plate(tmp_path / "P.zarr", version="0.4")
    chunk = next(path for path in sorted((tmp_path / "P.zarr/A/1/1/0/0/1").rglob("*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(UserError, match=r"A/1/1, time point 0"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")


def test_diverged_network_is_named(tmp_path):
    save_checkpoint(tmp_path / "run", target=("nuclei",), scope="none")
    predictor = load(tmp_path / "run")
    make_plate(tmp_path / "P.zarr", names=["A/1/0"], shape=(1, 2, 4, 8, 8))
    poisoned = predictor.compiled._variables[1]["params"]["Conv_0"]
    poisoned["bias"] = poisoned["bias"].at[0].set(np.nan)
    with pytest.raises(UserError, match=r"A/1/0, time point 0: channel 'nuclei': .*prediction.*NaN"):
        predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")


def test_program_prints_one_line_and_exits_with_an_error(tmp_path):
    save_checkpoint(tmp_path / "run")
    done = run(tmp_path / "run", tmp_path / "nothing.zarr", tmp_path / "S.zarr")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "error" in line] == [done.stderr.splitlines()[-1]]
    assert "nothing.zarr" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("version", [pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
def test_killed_at_any_moment_it_continues_to_the_same_bits(tmp_path, version):
    """SIGKILL at random moments until it is done: the pixels of an uninterrupted run, nothing finished done twice."""
    names = [f"{row}/{column}/{field}" for row in "ABCD" for column in range(2) for field in range(5)]
    make_plate(tmp_path / "P.zarr", version=version, names=names, shape=(2, 1, 4, 64, 64))
    save_checkpoint(tmp_path / "run", radius=8)
    url, output = tmp_path / "P.zarr", tmp_path / "S.zarr"
    whole = run(tmp_path / "run", url, tmp_path / "whole.zarr")
    assert whole.returncode == 0, whole.stderr
    assert finished_lines(whole.stdout) == set(names)
    random = np.random.default_rng(int(version[-1]))
    kills = 0
    for _ in range(40):
        before = finished_positions(output)
        process = start(tmp_path / "run", url, output)
        kill_when(process, output, len(before) + int(random.integers(0, 10)), random.uniform(0, 0.05))
        stdout, stderr = process.communicate(timeout=300)
        assert not before & finished_lines(stdout), "a finished position was computed again"
        if before and stdout:
            assert f"{len(before)} of {len(names)} positions were finished before" in stdout
        if is_complete(output):  # it may have been killed while Python exits
            break
        assert process.returncode == -signal.SIGKILL, stderr
        kills += 1
        finished = finished_positions(output)
        assert before <= finished
        check_finished(output, tmp_path / "whole.zarr", finished)
    assert kills >= 3
    one, two = pixels(tmp_path / "whole.zarr"), pixels(output)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def start(checkpoint, url, output):
    command = [sys.executable, str(DRIVER), "--checkpoint", checkpoint, "--input", url, "--output", output]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(*arguments):
    process = start(*arguments)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def kill_when(process, output, finished, delay):
    """Kill the run `delay` seconds after it has begun to write and finished so many positions; or let it end."""
    while process.poll() is None and not (output.exists() and len(finished_positions(output)) >= finished):
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()


def finished_lines(stdout):
    return {line.split(":")[0] for line in stdout.splitlines() if line.endswith(": finished")}


def records(output, pattern=""):
    """What the documents at `pattern` say under "vsjax", by folder, read without vsjax."""
    found = {}
    for document in [*output.glob(f"{pattern}.zattrs"), *output.glob(f"{pattern}zarr.json")]:
        attributes = json.loads(document.read_text())
        found[document.parent] = attributes.get("attributes", attributes).get("vsjax", {})
    return found


def is_complete(output):
    return any(record.get("complete") for record in records(output).values())


def finished_positions(output):
    found = records(output, "*/*/*/")
    return {path.relative_to(output).as_posix() for path, record in found.items() if record.get("finished")}


def check_finished(output, reference, finished):
    for name in finished:
        one, two = (zarr.open_array(path / name / "0", mode="r")[:] for path in (output, reference))
        assert np.array_equal(one, two), f"{name} is marked finished but is not whole"


def test_killed_while_it_began(tmp_path, predictor):
    """What a run leaves that was killed while it wrote the first document or the first wells is continued."""
    make_plate(tmp_path / "P.zarr", version="0.4")
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "whole.zarr")
    (tmp_path / "S.zarr").mkdir()
    (tmp_path / "S.zarr" / ".zattrs.__lock").write_text("")
    (tmp_path / "S.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    shutil.rmtree(tmp_path / "S.zarr" / "B")
    shutil.rmtree(tmp_path / "S.zarr" / "A" / "1" / "1")
    document = tmp_path / "S.zarr" / ".zattrs"
    attributes = json.loads(document.read_text())
    attributes["plate"].update(wells=[], rows=[], columns=[])
    del attributes["vsjax"]["complete"]
    document.write_text(json.dumps(attributes))
    summary = predict_plate(predictor, tmp_path / "P.zarr", tmp_path / "S.zarr")
    assert summary.made >= 2
    one, two = pixels(tmp_path / "whole.zarr"), pixels(tmp_path / "S.zarr")
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_target_units_by_other_statistics_are_not_mixed(tmp_path):
    """The same weights with other statistics of the stain: what is in its units has other numbers."""
    make_plate(tmp_path / "P.zarr")
    _, variables = save_checkpoint(tmp_path / "a")
    description = load_checkpoint(tmp_path / "a").description
    statistics = {name: {**values, "median": 7.0} for name, values in description.statistics.items()}
    save_variables(tmp_path / "b", variables, description.model_copy(update={"statistics": statistics}))
    settings = PredictionSettings(units="target")
    predict_plate(load(tmp_path / "a"), tmp_path / "P.zarr", tmp_path / "S.zarr", settings=settings)
    with pytest.raises(
        UserError, match=r"was started with normalization\.nuclei\.location = 80.0, but this command has 7.0"
    ):
        predict_plate(load(tmp_path / "b"), tmp_path / "P.zarr", tmp_path / "S.zarr", settings=settings)
    predict_plate(load(tmp_path / "a"), tmp_path / "P.zarr", tmp_path / "N.zarr")
    with pytest.raises(UserError, match="is complete already"):  # normalised numbers are the same
        predict_plate(load(tmp_path / "b"), tmp_path / "P.zarr", tmp_path / "N.zarr")
