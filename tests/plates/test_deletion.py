"""--overwrite deletes what vsjax made and nothing else: whatever is refused is there afterwards, to the last byte."""

import hashlib
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import zarr
from toy_step import Bright, Power

from vsjax.errors import UserError
from vsjax.intensity.statistics import write_statistics
from vsjax.plates import writer
from vsjax.plates.derived import make_plate
from vsjax.plates.reader import open_plate
from vsjax.plates.storage import Store
from vsjax.plates.writer import create_plate
from vsjax.simulation import SimulationConfig, write_plate

CONFIG = SimulationConfig(shape=(1, 32, 32), channels=("nuclei",))


def everything(folder):
    """What is below a folder, links and folders too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b"folder"
        found[str(path.relative_to(folder))] = hashlib.sha256(
            content.encode() if path.is_symlink() else content
        ).digest()
    return found


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def made(request, tmp_path_factory, zarr_plate, zarr_image):
    """Plates of vsjax's own: simulated, derived with labels and interrupted findings, a single image."""
    folder = tmp_path_factory.mktemp("made")
    image = np.random.default_rng(0).integers(0, 9, (2, 1, 3, 8, 8)).astype(np.uint8)
    zarr_plate(folder / "measured.zarr", {"A/1/0": image, "B/2/1": image}, version=request.param)
    zarr_image(zarr.open_group(folder / "image.zarr", mode="w", zarr_format=2), image[:, 0], "tzyx", "0.4")
    write_plate(str(folder / "simulated.zarr"), CONFIG, 2, ngff_version=request.param)
    write_statistics(open_plate(folder / "simulated.zarr"), grid=4)
    make_plate(Bright(), folder / "measured.zarr", folder / "derived.zarr", ngff_version=request.param)
    make_plate(Power(), folder / "image.zarr", folder / "single.zarr", ngff_version=request.param)
    return folder


def overwrite(folder, name):
    """What made the plate, again."""
    if name == "simulated":
        write_plate(str(folder / "simulated.zarr"), CONFIG, 1, overwrite=True)
    elif name == "derived":
        make_plate(Power(3), folder / "measured.zarr", folder / "derived.zarr", overwrite=True)
    else:
        make_plate(Power(3), folder / "image.zarr", folder / f"{name}.zarr", overwrite=True)


@pytest.mark.parametrize("name", ["simulated", "derived", "single"])
def test_its_own_plates_are_replaced(tmp_path, made, name):
    shutil.copytree(made, tmp_path / "w")
    top = next(tmp_path.glob(f"w/{name}.zarr/*z*"))
    (top.parent / f"{top.name}.__lock").write_text("half a document")  # of a program that was killed
    overwrite(tmp_path / "w", name)
    plate = open_plate(tmp_path / "w" / f"{name}.zarr")
    assert len(list(plate.positions())) == {"simulated": 1, "derived": 2, "single": 1}[name]
    assert not list((tmp_path / "w").rglob("*.__lock"))


@pytest.mark.parametrize("name", ["derived", "single"])
@pytest.mark.parametrize(
    "foreign",
    [
        "thesis.txt",
        ".hidden",
        "{well}/notes.csv",
        "{image}0/{chunks}0/extra.bin",
        "{image}0/{chunks}0/0/0/99/0",
        "{image}0/checksum.md5",
        "{image}1/.zarray",
        "{image}labels/by_hand/0/{chunks}0/0/0/0",
        "{image}tables/cells.parquet",
        "Z/9/0/{document}",
        "{well}/7/{document}",
        ".vsjax/evaluation/mine.json",
        "link",
        "{image}0/pipe",
    ],
)
def test_what_belongs_to_others_stays(tmp_path, made, name, foreign):
    version = "0.5" if (made / "simulated.zarr/zarr.json").exists() else "0.4"
    well = "" if name == "single" else "A/1"
    parts = {"well": well or "w", "image": f"{well}/0/" if well else "", "chunks": "c/" if version == "0.5" else ""}
    key = foreign.format(**parts, document="zarr.json" if version == "0.5" else ".zgroup")
    shutil.copytree(made, tmp_path / "w")
    path = tmp_path / "w" / f"{name}.zarr" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    if foreign == "link":
        path.symlink_to(made)
    elif path.name == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("precious")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=rf"{name}.zarr: is not deleted: it holds {key}, which vsjax did not write"):
        overwrite(tmp_path / "w", name)
    assert everything(tmp_path) == before


def edit(folder, change):
    """Change the attributes at the top of a zarr."""
    document = folder / ("zarr.json" if (folder / "zarr.json").exists() else ".zattrs")
    content = json.loads(document.read_text())
    change(content["attributes"] if document.name == "zarr.json" else content)
    document.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("vsjax"), "is not deleted: it does not say that vsjax made it"),
        (lambda a: a.update(vsjax={}), "vsjax.vsjax_version: is missing"),
        (lambda a: a.update(vsjax="yes"), "vsjax: is 'yes'; "),
        (lambda a: a["vsjax"].update(complete=1), "vsjax.complete: is 1; it must be a valid boolean"),
        (lambda a: a["vsjax"].update(mine=1), "vsjax.mine: there is no such field"),
    ],
)
def test_a_plate_must_say_so_itself(tmp_path, made, change, message):
    shutil.copytree(made, tmp_path / "w")
    edit(tmp_path / "w/derived.zarr", change)
    before = everything(tmp_path)
    with pytest.raises(UserError, match=message):
        overwrite(tmp_path / "w", "derived")
    assert everything(tmp_path) == before


def test_measured_plates_are_spared(tmp_path, made):
    """Of whoever made them, also with statistics of vsjax's in them, or by the library without a record."""
    shutil.copytree(made, tmp_path / "w")
    measured = tmp_path / "w/measured.zarr"
    write_statistics(open_plate(measured), grid=1)
    create_plate(tmp_path / "w/library.zarr").register(["A/1/0"])
    shutil.copytree(measured / "A/1/0", tmp_path / "w/field.zarr")
    before = everything(tmp_path)
    for name in ("measured", "library", "field", "derived.zarr/A/1"):
        for ask in (
            lambda url: create_plate(url, overwrite=True),
            lambda url: write_plate(str(url), CONFIG, 1, overwrite=True),
            lambda url: make_plate(Power(), tmp_path / "w/image.zarr", url, overwrite=True),
        ):
            with pytest.raises(UserError, match=r"is not deleted: it (does not say|is a part of)"):
                ask(tmp_path / "w" / (name if "/" in name else f"{name}.zarr"))
    assert everything(tmp_path) == before


class Killed(BaseException):
    pass


def stop_after(writes, monkeypatch):
    """Raise at the write of a document or array after so many, as a kill would leave the files."""
    left = iter(range(writes))

    def counted(function):
        def call(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return function(*args, **kwargs)

        return call

    for owner, name in ((Store, "write_json_async"), (Store, "update_json"), (writer, "create_array")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("made", ["0.5"], indirect=True)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_one_stopped_at_any_document_is_replaced(tmp_path, made, monkeypatch, version):
    arguments = (Bright(), made / "measured.zarr", tmp_path / "Q.zarr")
    for writes in itertools.count():
        try:
            with monkeypatch.context() as patch:
                stop_after(writes, patch)
                make_plate(*arguments, ngff_version=version)
                break
        except Killed:
            make_plate(*arguments, ngff_version=version, overwrite=True)
            assert open_plate(tmp_path / "Q.zarr").attributes["vsjax"]["complete"]
            shutil.rmtree(tmp_path / "Q.zarr")
    assert writes > 20
