"""Chunks that are damaged, missing or something else; arrays that claim to be larger than any image."""

import json
import os
import time

import numpy as np
import pytest
import zarr
from test_errors import message, read_all
from test_storage import put_something_else

from vsjax.errors import UserError
from vsjax.plates.arrays import read
from vsjax.plates.reader import open_plate
from vsjax.plates.writer import create_plate

SHAPE = (1, 2, 3, 40, 40)


def write(path, version="0.5", shards=None):
    """A plate of one noisy image with a label, in chunks of (1, 1, 3, 16, 16)."""
    pixels = np.random.default_rng(0).integers(1, 999, SHAPE).astype(np.uint16)
    writer = create_plate(path, ngff_version=version)
    layout = {"chunks": (1, 1, 3, 16, 16), "shards": shards}
    position = writer.create_position(
        "A/1/0", shape=SHAPE, dtype=np.uint16, channel_names=["a", "b"], pixel_size_um=(1, 1, 1), **layout
    )
    position.array().write(pixels).result()
    writer.create_label("A/1/0", "cells", (1, 1, 3, 40, 40), **layout)[:] = 7
    return pixels


def is_chunk(path):
    return path.is_file() and not path.name.startswith(".z") and path.suffix != ".json"


def chunks(path):
    return sorted(filter(is_chunk, path.rglob("*")))


def read_everything(path):
    position = open_plate(path, cached=False)["A/1/0"]
    labels = read(position.label("cells").read(), f"{position.url}/labels/cells")
    return read(position.array().read(), position.url), labels


@pytest.mark.parametrize("shards", [None, (1, 2, 3, 32, 32)])
def test_a_changed_byte_is_noticed(tmp_path, shards):
    pixels = write(tmp_path / "p.zarr", shards=shards)
    stored = zarr.open_group(tmp_path / "p.zarr/A/1/0", mode="r")  # zarr-python checks them too
    np.testing.assert_array_equal(stored["0"][...], pixels)
    assert (stored["labels/cells/0"][...] == 7).all()
    random = np.random.default_rng(1)
    assert len(chunks(tmp_path / "p.zarr")) == (4 + 4 if shards else 18 + 9)
    for chunk in chunks(tmp_path / "p.zarr"):
        content = chunk.read_bytes()
        changed = bytearray(content)
        changed[random.integers(len(content))] ^= 1 << random.integers(8)
        chunk.write_bytes(changed)
        assert str(chunk) in message(read_everything, tmp_path / "p.zarr")
        chunk.write_bytes(content)
    np.testing.assert_array_equal(read_everything(tmp_path / "p.zarr")[0], pixels)


@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link", "loop", "device"])
@pytest.mark.parametrize(("version", "shards"), [("0.4", None), ("0.5", None), ("0.5", (1, 1, 3, 32, 32))])
def test_a_chunk_is_an_ordinary_file(tmp_path, version, shards, kind):
    path = tmp_path / "p.zarr"
    pixels = write(path, version, shards)
    position = open_plate(path, cached=False)["A/1/0"]
    for image, view in (("", position.array()), ("labels/cells/", position.label("cells"))):
        chunk = chunks(path / f"A/1/0/{image}0")[-1]  # the last in c, y and x
        last = view.shape[1] - 1
        read(view[0, last, 1].oindex[[0, 20, 3], 5:30].read(), "")  # what does not need it is read
        content = chunk.read_bytes()
        put_something_else(chunk, kind)
        for part in (view, view[0, last], view[0, :, 2, ::39, ::39], view[:, last].oindex[:, [0, 2], [39, 1], 35:]):
            with pytest.raises(UserError, match=f"{chunk}: "):
                read(part.read(), "")
        chunk.rmdir() if kind == "folder" else chunk.unlink()
        elsewhere = tmp_path / f"{image.count('/')}"
        elsewhere.write_bytes(content)
        chunk.symlink_to(elsewhere)
    np.testing.assert_array_equal(read_everything(path)[0], pixels)


def test_a_missing_chunk_is_the_fill_value_and_a_lost_folder_is_not(tmp_path):
    pixels = write(tmp_path / "p.zarr")
    chunk = tmp_path / "p.zarr/A/1/0/0/c/0/1/0/2/2"
    chunk.unlink()
    pixels[:, 1, :, 32:, 32:] = 0
    np.testing.assert_array_equal(read_everything(tmp_path / "p.zarr")[0], pixels)
    (chunk.parent / "0").unlink()
    (chunk.parent / "1").unlink()
    chunk.parent.rmdir()
    pixels[:, 1, :, 32:] = 0
    np.testing.assert_array_equal(read_everything(tmp_path / "p.zarr")[0], pixels)
    for put in (lambda: chunk.parent.write_text("x"), lambda: chunk.parent.symlink_to("nothing")):
        put()
        assert f"{chunk.parent}: is no folder" in message(read_everything, tmp_path / "p.zarr")
        chunk.parent.unlink()


def change(path, **fields):
    for document in path.rglob("*"):
        if document.name in (".zarray", "zarr.json"):
            content = json.loads(document.read_text())
            if "shape" in content:
                document.write_text(json.dumps({**content, **fields}))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("shape", "chunk", "words"),
    [
        ([2**40, 1, 1, 8, 8], None, "1099511627776 along t (at most 32768)"),
        ([1, 2**40, 1, 8, 8], None, "along c (at most 1024)"),
        ([1, 1, 2**40, 8, 8], None, "along z"),
        ([1, 1, 1, 2**40, 8], None, "along y"),
        ([1, 1, 1, 2**20, 2**20], None, "pixels in a plane (at most 4294967296)"),
        ([1, 1, 9, 40000, 40000], [1, 1, 1, 8, 8], "chunks in a time point (at most 4194304)"),
        ([1, 1, 1, 8, 8], [1, 1, 64, 4096, 4096], "chunks of "),
        ([1, 1, 1, 4096, 4096], [1, 1, 2**30, 4096, 4096], "chunks of "),
        ([1, 1, 1, 0, 8], None, "shape.3: is 0"),
        ([1, 1, 1, -8, 8], None, "shape.3: is -8"),
        ([1, 1, 1, True, 8], None, "shape.3: is True"),
        ([1, 1, 1, 10**30, 8], None, "shape.3: is 1000"),
        ([1, 1, 1, 8, 8], [1, 1, 1, 8], "but chunks of 4"),
        ("text", None, "shape: is 'text'"),
    ],
)
def test_no_image_is_as_large_as_that(tmp_path, zarr_plate, version, shape, chunk, words):
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.ones((1, 1, 1, 8, 8), np.float32)}, version=version)
    layout = {"shape": shape}
    if chunk is not None:
        grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
        layout |= {"chunks": chunk} if version == "0.4" else {"chunk_grid": grid}
    change(path, **layout)
    start = time.process_time()
    text = message(read_all, path)
    assert time.process_time() - start < 2
    assert words in text
    assert "A/1/0/0" in text


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_array_nested_too_deeply_does_not_reach_tensorstore(tmp_path, zarr_plate, version):
    """100,000 levels kill it."""
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.ones((1, 1, 1, 8, 8), np.float32)}, version=version)
    document = path / "A/1/0/0" / (".zarray" if version == "0.4" else "zarr.json")
    for depth in (100, 100_000):
        document.write_text(document.read_text()[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}")
        assert f"{document}: is n" in message(read_all, path)


def test_of_very_much_something_must_be_there(tmp_path, zarr_plate):
    """An image of 1.6 GB of which nothing was copied is not read as zeros; of labels that is right."""
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.zeros((1, 1, 1, 8, 8), np.float32)}, version="0.5")
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, 512, 512]}}
    change(path, shape=[1, 1, 1, 20000, 20000], chunk_grid=grid)
    pixels = open_plate(path)["A/1/0"].array()
    assert not read(pixels[..., :600, :600].read(), "").any()
    with pytest.raises(UserError, match=r"A/1/0/0: hardly any of 1600 chunks"):
        pixels[..., ::32, ::32].read()


def test_one_frame_of_a_movie_may_be_blank(tmp_path, zarr_plate):
    """zarr-python writes no chunks of zeros."""
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.zeros((1, 1, 1, 8, 8), np.uint8)}, version="0.5")
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, 4, 4]}}
    change(path, shape=[2, 1, 1, 1200, 1200], chunk_grid=grid)
    pixels = open_plate(path)["A/1/0"].array()
    pixels[0, ..., :8, :8] = 7
    with pytest.raises(UserError, match="hardly any of 90000 chunks"):
        pixels[1].read()
    pixels[0, ..., :40, :40] = 7
    assert not read(pixels[1].read(), "").any()


@pytest.mark.parametrize("separator", ["/", "."])
def test_a_light_sheet_of_millions_of_chunks_is_opened_and_an_empty_one_not_searched(tmp_path, zarr_plate, separator):
    path = zarr_plate(tmp_path / "p.zarr", {"A/1/0": np.ones((1, 1, 1, 8, 8), np.float32)}, version="0.4")
    for chunk in chunks(path / "A/1/0/0"):
        chunk.unlink()
    layout = {"chunks": [1, 1, 1, 128, 128], "dimension_separator": separator}
    change(path, shape=[1, 4, 1000, 4096, 4096], **layout)
    pixels = open_plate(path)["A/1/0"].array()
    assert not read(pixels[..., 9, :300, :300].read(), "").any()
    start = time.process_time()
    with pytest.raises(UserError, match="hardly any of 4096000 chunks"):
        pixels.read()
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("version", "document", "change"),
    [
        ("0.4", ".zarray", {"dimension_separator": "."}),
        ("0.5", "zarr.json", {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}),
        ("0.5", "zarr.json", {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}}),
    ],
)
def test_chunks_under_other_names_are_no_empty_image(tmp_path, version, document, change):
    """They would all count as never written: an image of zeros."""
    write(tmp_path / "p.zarr", version)
    file = tmp_path / "p.zarr/A/1/0/0" / document
    sound = file.read_text()
    file.write_text(json.dumps(json.loads(sound) | change))
    assert "names chunks such as" in message(read_everything, tmp_path / "p.zarr")
    file.write_text(sound)
    for chunk in chunks(tmp_path / "p.zarr/A/1/0/0"):  # an image that was never written is one of zeros
        chunk.unlink()
    assert not read_everything(tmp_path / "p.zarr")[0].any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_files_that_are_too_large_are_not_read(tmp_path, version):
    """Nothing of them is on disk; read, they would take all memory."""
    write(tmp_path / "p.zarr", version)
    image = tmp_path / "p.zarr/A/1/0"
    document = "zarr.json" if version == "0.5" else ".zattrs"
    for path in (chunks(image / "0")[0], image / document, image.parents[2] / document):
        sound = path.read_bytes()
        os.truncate(path, 1 << 40)
        assert f"{path}: has {1 << 40} bytes" in message(read_everything, tmp_path / "p.zarr")
        path.write_bytes(sound)
