"""Cases of pixels: types and contents, through `preprocess` and `predict`, and through the array API."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.fuzzing import oracles, programs
from scripts.fuzzing.tokens import short
from scripts.fuzzing.trial import Trial
from scripts.fuzzing.world import World

TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", "?", "U8", "M8[s]", "V4")
SHAPE = (1, 2, 2, 16, 16)
SHAPES = (
    SHAPE, SHAPE, SHAPE, SHAPE, (0, 2, 2, 16, 16), (1, 2, 0, 16, 16), (1, 2, 2, 0, 16), (1, 2, 2, 16, 1),
    (1, 2, 1, 16, 16), (1, 2, 2, 1, 1), (1, 2, 2, 15, 17), (2, 2, 2, 16, 16), (1, 1, 2, 16, 16), (1, 3, 2, 16, 16),
)  # fmt: skip
CONTENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda x: 100 + 50 * x,
    "constant": lambda x: 0 * x + 7,
    "zero": lambda x: 0 * x,
    "two values": lambda x: (x > 0) * 1.0,
    "one pixel": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 3, 1e6, 0),
    "offset 1e9": lambda x: 1e9 + x,
    "offset 1e15": lambda x: 1e15 + x,
    "offset -1e9": lambda x: -1e9 + x,
    "1e300": lambda x: x * 1e300,
    "1e308": lambda x: np.sign(x) * 1.7e308,
    "1e38": lambda x: x * 1e38,
    "1e-300": lambda x: x * 1e-300,
    "1e-40": lambda x: x * 1e-40,
    "NaN": lambda x: np.where(np.arange(x.size).reshape(x.shape) % 7 == 0, np.nan, x),
    "one NaN": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.nan, x),
    "all NaN": lambda x: x * np.nan,
    "inf": lambda x: np.where(np.arange(x.size).reshape(x.shape) % 7 == 0, np.inf, x),
    "-inf": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, -np.inf, x),
    "largest": lambda x: np.where(x > 0, 2.0**64, 0),
    "smallest": lambda x: np.where(x > 0, -(2.0**63), 0),
    "halves largest": lambda x: np.where(x > 0, 2.0**63, 2.0**62),
}
SCALES = (
    "[1, 1, 1, 0.5, 0.5]", "[1, 1, NaN, 0.5, 0.5]", "[1, 1, 1, Infinity, 0.5]", "[1, 1, 1, 0, 0.5]",
    "[1, 1, 1, -1, 0.5]", "[1, 1, 1, 1e308, 1e308]", "[1, 1, 1e-320, 1, 1]",
)  # fmt: skip


def pixels(world: World, folder: Path, choose: random.Random) -> Trial:
    """A plate of another type and content, or an array for the library."""
    return _array(world, folder, choose) if choose.random() < 0.45 else _plate(world, folder, choose)


def _image(choose: random.Random, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    dtype = choose.choice(TYPES)
    content = choose.choice(list(CONTENTS))
    if choose.random() < 0.5:  # more often what could be measured
        dtype = choose.choice(["f4", "f8", "u2", "u8"])
    with np.errstate(all="ignore"):
        values = CONTENTS[content](np.random.default_rng(1).normal(size=shape))
        kind = np.dtype(dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            image = np.zeros(shape, kind)
            low, high = values <= float(limits.min), values >= float(limits.max)
            middle = ~(low | high) & np.isfinite(values)
            image[middle] = values[middle].astype(kind)
            image[low], image[high] = limits.min, limits.max
        else:
            through = {"M": "i8", "V": "S4"}.get(kind.kind, "f8")  # dates take whole numbers, raw bytes what text holds
            image = values.astype(through).astype(kind)
    return image, f"{dtype} {content} {shape}"


def _plate(world: World, folder: Path, choose: random.Random) -> Trial:
    shape = choose.choice(SHAPES) if choose.random() < 0.4 else SHAPE
    scale = choose.choice(SCALES) if choose.random() < 0.15 else SCALES[0]
    image, words = _image(choose, shape)
    version = choose.choice(["0.4", "0.5"])
    world.copy(folder, "run")

    def setup() -> None:
        _write_plate(folder / "P.zarr", image, version, scale)

    def program() -> None:
        programs.call(["preprocess", "--plate", "P.zarr", "--grid", "1"])
        programs.call(["predict", "--checkpoint", "run", "--input", "P.zarr", "--output", "out/S.zarr"])

    return Trial(
        words=f"plate {version}: {words} scale {scale}",
        program=programs.run_function("predict", program),
        command="python -m vsjax.preprocess --plate P.zarr --grid 1, then vsjax.predict",
        may_write=("P.zarr#documents", "out/S.zarr"),
        may_write_always=("P.zarr#documents", "out/S.zarr"),  # the statistics are there when the prediction is refused
        judge=lambda folder: _statistics_are_right(folder, image),
        setup=setup,
    )


def _write_plate(path: Path, image: np.ndarray, version: str, scale: str) -> None:
    """A single image, written by zarr-python with metadata by hand."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=image, chunks=tuple(max(1, size) for size in image.shape))
    axes = [
        {"name": name, "type": kind} for name, kind in zip("tczyx", ("time", "channel", *["space"] * 3), strict=True)
    ]
    transform = [{"type": "scale", "scale": "SCALE"}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transform}]}
    labels = [{"label": name} for name in ("BF", "nuclei", "third")[: image.shape[1]]]
    ome: dict[str, Any] = {"multiscales": [multiscale], "omero": {"channels": labels}}
    if version == "0.4":
        multiscale["version"] = "0.4"
    content = (
        {**ome}
        if version == "0.4"
        else {"attributes": {"ome": {"version": "0.5", **ome}}, "zarr_format": 3, "node_type": "group"}
    )
    (path / (".zattrs" if version == "0.4" else "zarr.json")).write_text(json.dumps(content).replace('"SCALE"', scale))


def _statistics_are_right(folder: Path, image: np.ndarray) -> str:
    """Compare what `preprocess` wrote with NumPy's extended precision; and nothing that means nothing."""
    bad = oracles.measure(folder / "out/S.zarr").get("bad", []) + oracles.measure(folder / "P.zarr").get("bad", [])
    if bad:
        return bad[0]
    if image.dtype.kind not in "iuf":
        return f"pixels of the type {image.dtype} were taken"
    values = image[:, 0].astype(np.longdouble)
    finite = values[np.isfinite(values)]
    top = next(path for name in (".zattrs", "zarr.json") if (path := folder / "P.zarr" / name).exists())
    content = json.loads(top.read_text())
    found = content.get("attributes", content)["normalization"]["BF"]["fov_statistics"]
    for name, wanted in (("mean", finite.mean()), ("std", finite.std()), ("median", np.median(finite))):
        near = 1e-5 * max(abs(wanted), float(finite.std()))
        if not abs(found[name] - wanted) <= near:
            return f"{name} is {found[name]!r}, NumPy's is {float(wanted)!r}"
    return ""


SETTINGS = (
    {}, {}, {}, {"tile": "x"}, {"tile": (0, 0)}, {"tile": 5}, {"tile": (8, 8, 8)}, {"tile": (2**40, 2**40)},
    {"margin": -1}, {"margin": 1.5}, {"margin": 2**40}, {"batch_size": 0}, {"batch_size": 10**9},
    {"batch_size": "many"}, {"z_step": 0}, {"z_step": 2**40}, {"z_step": 1.5}, {"units": "target"}, {"units": None},
    {"units": 3}, {"tta": "nope"}, {"tta": 1}, {"tta": "mean"}, {"tta": ["mean"]}, {"draws": 2},
    {"draws": float("nan")}, {"draws": True}, {"seed": -1}, {"seed": 2**70}, {"seed": "x"}, {"keep": "draws"},
    {"space": 0}, {"space": 10**9}, {"space": "x"}, {"sampler": 3}, {"sampler": {}},
)  # fmt: skip
AXES = (
    None,
    None,
    None,
    None,
    "CZYX",
    "ZYXC",
    "ZYX",
    "zyx",
    "",
    "ZZZ",
    "QYX",
    3,
    ["Z", "Y", "X"],
    "TCZYX",
    "x" * 1000,
    b"ZYX",
)
VOLUMES = (
    (2, 16, 16), (2, 16, 16), (2, 16, 16), (1, 2, 16, 16), (2, 16, 16, 1), (4, 15, 17), (1, 16, 16), (0, 16, 16),
    (2, 0, 16), (2, 16, 0), (16, 16), (16,), (), (1, 1, 2, 16, 16), (0, 1, 2, 16, 16), (2, 2, 2, 16, 16),
    (1, 1, 1, 1, 1, 1), (2, 1, 1),
)  # fmt: skip
ODD = (None, "text", b"bytes", [], [[1, 2], [3]], {}, object, 3, {"a": 1}, [[["a"]]], [[[None]]], float("nan"), True)
STATISTICS = (
    None, None, None, {}, {"BF": {}}, {"BF": None}, {"BF": {"mean": 1.0, "std": 0.0}},
    {"BF": {"mean": "1", "std": "2"}}, {"BF": {"mean": float("nan"), "std": 1.0}},
    {"BF": {"mean": 1e308, "std": 1e-308}}, {"BF": {"mean": 1, "std": -1}}, {"BF": {"mean": True, "std": True}},
    "text", 3, [1], {"BF": {"mean": 100.0, "std": 50.0}},
)  # fmt: skip


def _array(world: World, folder: Path, choose: random.Random) -> Trial:
    world.copy(folder, "run")
    if choose.random() < 0.12:
        volume: Any = choose.choice(ODD)
        words = short(repr(volume))
    else:
        volume, words = _image(choose, choose.choice(VOLUMES))
        if choose.random() < 0.4:
            volume, words = _image_of(choose.choice(VOLUMES[:4]), choose)
    odd = choose.choice(["settings", "axes", "statistics", "all", "none"])  # one thing at a time, most times
    settings = choose.choice(SETTINGS) if odd in ("settings", "all") else {}
    axes = choose.choice(AXES) if odd in ("axes", "all") else None
    statistics = choose.choice(STATISTICS) if odd in ("statistics", "all") else None

    def program() -> None:
        import vsjax
        from vsjax.inference.settings import PredictionSettings

        done = vsjax.load("run").predict(volume, PredictionSettings(**settings), axes=axes, statistics=statistics)
        np.save("out/prediction.npy", done)

    def judge(folder: Path) -> str:
        done = np.load(folder / "out/prediction.npy")
        if not np.isfinite(done).all():
            return "the prediction holds NaN or infinite numbers"
        if not isinstance(volume, np.ndarray) or volume.dtype.kind not in "iuf" or not volume.size:
            return "what is no image was predicted"
        return ""

    return Trial(
        words=f"predictor.predict({words}, {settings}, axes={short(repr(axes))}, statistics={statistics})",
        program=programs.run_function("load", program),
        command="vsjax.load('run').predict(...)",
        may_write=("out/prediction.npy",),
        judge=judge,
    )


def _image_of(shape: tuple[int, ...], choose: random.Random) -> tuple[np.ndarray, str]:
    """What can be predicted, so that settings, axes and statistics are what is tried."""
    return np.random.default_rng(2).normal(100, 20, shape).astype("f4"), f"a sound volume {shape}"


CATEGORIES = {"pixels": pixels}
