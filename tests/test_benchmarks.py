"""The benchmarks in scripts/: what they measure is so, and each runs on a tiny size."""

import json
import math
import statistics
import sys
import threading

import numpy as np
import pytest
import toys

from scripts import bench_data, bench_predict, bench_train
from scripts.benchmarking import measure, report, rounds
from scripts.benchmarking.families import FAMILIES, Family
from scripts.benchmarking.floor_vsjax import forward_work, training_work
from scripts.benchmarking.inputs import images
from scripts.benchmarking.loop_vsjax import Paced
from vsjax.models.registry import MODELS
from vsjax.runtime.checkpoint import steps_in

ONCE = ["--mode", "debug", "--rounds", "1", "--warmup", "0", "--repeats", "1", "--markdown"]


@pytest.fixture(autouse=True)
def _compiles_fast(monkeypatch):
    """What is measured here is not worth XLA's optimisation."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def test_spread_is_that_of_a_known_sequence():
    values = [5.0, 1.0, 3.0, 2.0, 4.0, 11.0, 7.0, 8.0, 9.0, 10.0, 6.0]
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    assert measure.spread(values) == {"median": 6.0, "p10": deciles[0], "p90": deciles[-1], "count": 11}


def test_sides_take_turns_and_their_memory_is_their_own(tmp_path):
    log = tmp_path / "log"
    ours = {"name": "A", "seconds": 0.05, "bytes": 1, "log": str(log)}
    theirs = {"name": "B", "seconds": 0.3, "bytes": 1 << 28, "log": str(log)}
    sides = [("tests.toy_side", request, sys.executable) for request in (ours, theirs)]
    found = rounds.compare(sides, rounds=2, warmup=1, repeats=2)
    assert log.read_text() == "AAABBB" * 2
    assert [side["told"] for side in found] == [None, "A"]
    assert all(side["finished"] and [len(turn) for turn in side["rounds"]] == [2, 2] for side in found)
    held = [side["memory"] for side in found]
    assert held[1]["peak"] - held[0]["peak"] == pytest.approx(1 << 28, rel=0.1)
    assert held[1]["peak_prepare"] < 1 << 28 <= held[1]["peak_rounds"]  # what a round takes is told apart
    row = report.row("toy", "sleeps", found, {})
    times = [np.median(side["rounds"]) for side in found]
    assert row["ratio"] == pytest.approx(times[1] / times[0])
    assert row["ratio"] > 1.2
    assert row["memory_ratio"] == held[1]["peak"] / held[0]["peak"]


def test_a_side_may_say_itself_what_counts(tmp_path):
    request = {"name": "A", "seconds": 0.0, "bytes": 1, "counts": 2.5, "log": str(tmp_path / "log")}
    (found,) = rounds.compare([("tests.toy_side", request, sys.executable)], rounds=1, warmup=0, repeats=2)
    assert found["rounds"] == [[2.5, 2.5]]


def test_a_side_that_fails_is_quoted():
    side = rounds.Side("tests.toy_side", {"name": "A"})
    with pytest.raises(rounds.SideFailed, match="KeyError: 'log'"):
        side.round(0, 1)


def test_the_loop_takes_as_many_steps_as_it_is_told(simulated_plate, tmp_path):
    """One when it is prepared, three more, and it saves after every second."""
    family = Family(config="fnet3d", patch=(4, 32, 32), viscy=None)
    request = {"family": family.to_json(), "mode": "debug", "dtype": "float32", "seed": 0, "save_every": 2}
    paced = Paced()

    def ask() -> None:
        work = paced.prepare({**request, "plate": str(simulated_plate), "folder": str(tmp_path)})
        for _ in range(3):
            work.run()
        work.finish()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    paced.train()
    asking.join()
    assert steps_in(tmp_path / "run_2" / "checkpoints" / "last") == [2, 4]


def test_work_is_that_of_a_network_that_is_known():
    network = toys.OneConvolution(in_channels=2, out_channels=3)
    voxels = 2 * 3 * 8 * 8
    conv, head = 27 * 2 * 32 * voxels, 32 * 3 * voxels
    shape = (2, 3, 8, 8, 2)
    forward, training = forward_work(network, shape), training_work(network, shape)
    assert forward["multiply_adds"] == conv + head
    assert training["multiply_adds"] == 2 * conv + 3 * head  # nobody asks for the gradient of the image
    between = 2 * 32 * voxels  # what the convolution gives and the head takes
    assert forward["bytes"] == 4 * (voxels * (2 + 3) + between + 27 * 2 * 32 + 32 * 3)
    rates = {"float32": conv + head, "copy": forward["bytes"] / 4}
    assert report.floor(forward, rates, "float32") == {"products": 1.0, "bytes": 4.0, "floor": 4.0}


def test_the_rates_are_the_best_of_all_that_were_shown():
    sides = [{"rates": {"float32": 3.0, "copy": 1.0}}, {"rates": {"float32": 5.0, "bfloat16": 2.0}}, {}]
    assert report.best_rates(sides, on_host=False) == {"float32": 5.0, "bfloat16": 2.0, "copy": 1.0}


def test_inputs_are_normalised_and_the_same_again():
    source, target = images(2, (5, 64, 64), 1, 2, seed=3)
    assert source.shape == (2, 1, 5, 64, 64)
    assert target.shape == (2, 2, 5, 64, 64)
    assert abs(source.mean()) < 0.05
    assert source.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(source, images(2, (5, 64, 64), 1, 2, seed=3)[0])


def test_every_family_has_a_row():
    regressing = {name: network for name, network in MODELS.items() if network.predicts_by == "regression"}
    published = {name for name, network in regressing.items() if network.__module__.startswith("vsjax.")}
    assert published <= FAMILIES.keys()


def test_training_row(tmp_path, capsys):
    (row,) = bench_train.main(["--rows", "fnet3d", "--patch", "4", "32", "32", *ONCE, "--json", str(tmp_path / "j")])
    document = json.loads((tmp_path / "j").read_text())
    assert document["machine"]["cores"] >= 1
    assert document["rows"] == json.loads(json.dumps([row]))
    ours = row["ours"]
    assert row["theirs"] is None
    assert len(ours["losses"]) == 2  # the first step, and the one that counts
    assert all(map(math.isfinite, ours["losses"]))
    assert ours["losses"][1] != ours["losses"][0]  # it learns
    assert ours["seconds"]["median"] == ours["rounds"][0][0] > 0
    assert ours["memory"]["peak"] >= ours["memory"]["after"] > ours["memory"]["before"] > 0
    assert row["multiply_adds_per_second"] * ours["seconds"]["median"] == pytest.approx(ours["work"]["multiply_adds"])
    assert row["floor"]["floor"] <= ours["seconds"]["median"]
    assert "| training step fnet3d, 2 x (4, 32, 32), float32 |" in capsys.readouterr().out


def test_prediction_rows(tmp_path):
    sizes = ["--planes", "32", "--plate-plane", "32", "--positions", "2", "--folder", str(tmp_path)]
    forward, plate = bench_predict.main(["--rows", "unet2d", *sizes, *ONCE])
    assert forward["ours"]["parameters"] > 0
    assert plate["ours"]["work"]["multiply_adds"] == 6 * forward["ours"]["work"]["multiply_adds"]  # 2 FOVs, 3 windows
    over = plate["ours"]["seconds"]["median"] / plate["ours"]["bare_seconds"] - 1
    assert plate["over_bare"] == pytest.approx(over)
    assert not list(tmp_path.iterdir())  # the plates are gone


def test_data_rows(tmp_path):
    sizes = ["--patch", "5", "32", "32", "--batch", "2", "--batches", "3", "--plane", "96", "--positions", "2"]
    (row,) = bench_data.main(["--rows", "augmented", *sizes, "--times", "1", "--folder", str(tmp_path), *ONCE])
    ours = row["ours"]
    assert ours["shapes"] == {"source": [2, 5, 32, 32, 1], "target": [2, 5, 32, 32, 2]}
    assert ours["samples"] == 6
    assert ours["samples_per_second"] == pytest.approx(1 / ours["seconds"]["median"])
