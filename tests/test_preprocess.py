"""`python -m vsjax.preprocess --config`: steps in memory, then the statistics."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from ml_collections import ConfigDict

from vsjax.errors import UserError
from vsjax.intensity.equalization import Equalization
from vsjax.intensity.statistics import write_statistics
from vsjax.plates.derived import Listener, make_plate
from vsjax.plates.reader import open_plate
from vsjax.plates.step import chain
from vsjax.preprocess import main
from vsjax.steps import make_step, step_section

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CONFIG = str(CONFIGS / "preprocess_vsneuromast.py")


@pytest.fixture
def plate(tmp_path, zarr_plate):
    random = np.random.default_rng(0)
    images = {f"A/{index}/0": random.gamma(2, 100, (1, 3, 5, 33, 36)).astype(np.uint16) for index in range(3)}
    return zarr_plate(tmp_path / "P.zarr", images, version="0.5", channels=["BF", "nuclei", "membrane"])


@pytest.fixture
def expected(plate, tmp_path):
    """What the two programs make, one after the other."""
    make_plate(Equalization(channels=("nuclei", "membrane")), plate, tmp_path / "expected.zarr")
    write_statistics(open_plate(tmp_path / "expected.zarr"))
    return tmp_path / "expected.zarr"


def assert_same(one, two):
    for first, second in zip(open_plate(one).positions(), open_plate(two).positions(), strict=True):
        arrays = [zarr.open_array(path / first.name / "0", mode="r")[...] for path in (one, two)]
        np.testing.assert_array_equal(*arrays)
        assert first.attributes["vsjax"] == second.attributes["vsjax"]
        for scope in ("fov", "dataset", "timepoint"):
            expected = first.statistics("nuclei_clahe", scope)
            assert second.statistics("nuclei_clahe", scope) == pytest.approx(expected, rel=1e-12)


def test_the_config_of_vsneuromast(plate, expected, tmp_path, capsys):
    flags = ["--plate", str(plate), "--output", str(tmp_path / "Q.zarr"), "--config", CONFIG]
    main(flags)
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "membrane_clahe"
    assert_same(expected, tmp_path / "Q.zarr")
    for path in tmp_path.glob("Q.zarr/**/zarr.json"):  # as if it had been stopped before the statistics
        group = zarr.open(path.parent, mode="r+")
        if isinstance(group, zarr.Group):
            group.attrs.put({key: value for key, value in group.attrs.items() if key != "normalization"})
    main(flags)
    assert_same(expected, tmp_path / "Q.zarr")


def test_by_two_processes(plate, expected, tmp_path):
    flags = ["--config", CONFIG, "--plate", str(plate), "--output", str(tmp_path / "Q.zarr"), "--processes", "2"]
    for process in "01":
        main([*flags, "--process", process])
    assert_same(expected, tmp_path / "Q.zarr")


@pytest.mark.parametrize("processes", [2, 5])
def test_done_before_process_0_has_made_an_image(plate, expected, tmp_path, processes):
    """Process 0 was stopped after it had listed the plate; with five processes two have no position at all."""
    output = tmp_path / "Q.zarr"
    flags = ["--config", CONFIG, "--plate", str(plate), "--output", str(output), "--processes", str(processes)]

    class Stop(Listener):
        def started(self, positions, finished_before, slices):
            raise KeyboardInterrupt

    step = chain([Equalization(channels=("nuclei", "membrane"))])
    with pytest.raises(KeyboardInterrupt):
        make_plate(step, plate, output, processes=processes, listener=Stop())
    for process in reversed(range(processes)):
        assert not (output / "A/0/0").exists()
        main([*flags, "--process", str(process)])
    assert_same(expected, output)


def test_settings_on_the_command_line(plate, tmp_path):
    main(
        ["--config", CONFIG, "--config.statistics.grid=1", "--plate", str(plate), "--output", str(tmp_path / "Q.zarr")]
    )
    position = open_plate(tmp_path / "Q.zarr")["A/1/0"]
    assert position.statistics("BF", "fov")["max"] == zarr.open_array(plate / "A/1/0/0", mode="r")[0, 0].max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blur", "--plate", "P"], "there is no step 'blur'; choose one of statistics, equalize, masks"),
        (["--config", "configs/nothing.py", "--plate", "P", "--output", "Q"], r"nothing\.py"),
        (["--config", CONFIG, "--config.statistics.gird=3", "--plate", "P", "--output", "Q"], "gird"),
        (["--config", str(CONFIGS / "unet2d.py"), "--plate", "P", "--output", "Q"], "has no field 'steps'"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '{"grid": 32}',
            '{"gird": 32}',
            r"config\.statistics\.gird: there is no such field; there are channels, grid",
        ),
        ('{"grid": 32}', '{"grid": "x"}', r"config\.statistics\.grid: is 'x'; it must be a valid integer"),
        ('{"grid": 32}', '{"workers": 10**9}', r"config\.statistics\.workers: is 1000000000; "),
        ('{"grid": 32}', "7", r"config\.statistics: is 7; "),
        ('"steps": (', '"steps": 3 or (', r"config\.steps: is no list of steps"),
        ('"steps": (', '"steps": (3,) or (', r"steps: 3 is no step"),
    ],
)
def test_mistakes_in_a_config(plate, tmp_path, old, new, message):
    config = tmp_path / "wrong.py"
    config.write_text(Path(CONFIG).read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        main(["--config", str(config), "--plate", str(plate), "--output", str(tmp_path / "Q.zarr")])
    assert not (tmp_path / "Q.zarr").exists()


def test_sections_are_the_steps_settings():
    section = step_section("equalize", channels=("nuclei",))
    assert section.to_dict() == {"name": "equalize", "channels": ("nuclei",), "kernel": (5, 32, 32), "clip_limit": 0.01}
    assert make_step(ConfigDict(section)) == Equalization(channels=("nuclei",))
    for wrong, message in (
        ({"name": "blur"}, "there is no step 'blur'"),
        ({"name": ["blur"]}, "there is no step"),
        (3, "steps: 3 is no step"),
        (
            {"name": "equalize", "channels": ("a",), "kernal": 3},
            "equalize.kernal: there is no such field; there are channels, kernel",
        ),
        ({"name": "equalize"}, "equalize.channels: is missing"),
    ):
        with pytest.raises(UserError, match=message):
            make_step(wrong)
