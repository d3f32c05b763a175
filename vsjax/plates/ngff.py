"""OME-NGFF 0.4 (zarr v2) and 0.5 (zarr v3) metadata: what the JSON documents say.

`ome-zarr-models` validates. What real writers get wrong although the meaning is clear is put right before:
identity transformations (iohub), paths that are numbers (Fractal), axes without a type, names with ".", "_" and "-",
documents without a version. Writing is in `ngff_write.py`.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from ome_zarr_models.common.plate import Column, Row
from ome_zarr_models.common.well_types import WellImage
from ome_zarr_models.v04.multiscales import Multiscale as Multiscale04
from ome_zarr_models.v04.plate import Plate as Plate04
from ome_zarr_models.v04.well_types import WellMeta as Well04
from ome_zarr_models.v05.multiscales import Multiscale as Multiscale05
from ome_zarr_models.v05.plate import Plate as Plate05
from ome_zarr_models.v05.well_types import WellMeta as Well05

from vsjax.errors import UserError
from vsjax.plates.storage import check_relative

AXES = "tczyx"
OME_KEYS = ("ome", "multiscales", "omero", "plate", "well", "labels", "image-label")  # the attributes that are OME's
_TYPE_OF_AXIS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}

_SI_PREFIXES = {
    **{"yocto": -24, "zepto": -21, "atto": -18, "femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3},
    **{"centi": -2, "deci": -1, "": 0, "hecto": 2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "peta": 15, "exa": 18},
    **{"zetta": 21, "yotta": 24},
}
_UNIT_IN_UM = {
    **{f"{prefix}meter": 10.0 ** (power + 6) for prefix, power in _SI_PREFIXES.items()},
    **{
        "angstrom": 1e-4,
        "inch": 25400.0,
        "foot": 304800.0,
        "yard": 914400.0,
        "mile": 1609344e3,
        "parsec": 3.0856775814913673e22,
    },
    **{"micron": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "å": 1e-4},
    **{"pixel": 1.0, "": 1.0},  # no physical unit: the number is taken as µm, as without a unit
}

_MOST_RESOLUTIONS = 64  # each half the one before: the model takes milliseconds for every one
_LEAST_STEP = 1e-30  # of the scale, in whatever unit; its inverse is the largest

_NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
Name = Annotated[str, pydantic.StringConstraints(pattern=_NAME_PATTERN)]


class LenientRow(Row):
    name: Name


class LenientColumn(Column):
    name: Name


class LenientWellImage(WellImage):
    path: Name


def _names_once(items: list[Any]) -> list[Any]:
    """Instead of the models' pairwise comparison, which takes half a minute for 4,000 columns."""
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return items


class LenientPlate04(Plate04):
    rows: list[LenientRow]
    columns: list[LenientColumn]
    _check_unique_items = pydantic.field_validator("columns", "rows")(_names_once)


class LenientPlate05(Plate05):
    rows: list[LenientRow]
    columns: list[LenientColumn]
    _check_unique_items = pydantic.field_validator("columns", "rows")(_names_once)


class LenientWell04(Well04):
    images: list[LenientWellImage]  # without the model's pairwise comparison, which takes seconds for a thousand FOVs


class LenientWell05(Well05):
    images: list[LenientWellImage]


_MODELS = {
    "0.4": {"plate": LenientPlate04, "well": LenientWell04, "multiscales": Multiscale04},
    "0.5": {"plate": LenientPlate05, "well": LenientWell05, "multiscales": Multiscale05},
}


@dataclass(frozen=True)
class ImageMetadata:
    """What an image's document says.

    Attributes:
        axes: the stored axes in stored order, of the letters of "tczyx".
        paths: the array of each resolution, finest first, relative to the image.
        scales: per resolution, the size of a step along t, c, z, y, x in the file's units; 1 for an axis it has not.
        pixel_size_um: size of a pixel at the finest resolution along z, y, x in micrometres.
        channel_labels: the names in the `omero` block, None where a channel has none; empty without such a block.
        display: per channel of the `omero` block what it says beside the name, such as "color" and "window".
    """

    axes: str
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    pixel_size_um: tuple[float, float, float]
    channel_labels: tuple[str | None, ...]
    display: tuple[Mapping[str, Any], ...]


def is_name(text: str) -> bool:
    """Whether `text` can name a row, column, FOV or label: one part of a path that is no zarr document."""
    return re.fullmatch(_NAME_PATTERN, text) is not None and text != "zarr.json"


def ome_attributes(attributes: dict[str, Any], zarr_format: int, where: str) -> tuple[dict[str, Any], str]:
    """The OME part of a group's attributes, and the NGFF version: "0.4" or "0.5".

    Raises UserError for any other version.
    """
    if zarr_format == 3:
        ome = attributes.get("ome", {})
        if not isinstance(ome, dict):
            raise UserError(f"{where}: ome: is not a JSON object; write the plate again")
        version = str(ome.get("version", "0.5"))
        if version != "0.5" and not version.startswith("0.5."):
            raise _unsupported(where, "ome.version", version)
        return ome, "0.5"
    multiscales = attributes.get("multiscales")
    first = multiscales[0] if isinstance(multiscales, list) and multiscales else {}
    for field, part in (("multiscales.0", first), ("plate", attributes.get("plate")), ("well", attributes.get("well"))):
        version = part.get("version") if isinstance(part, dict) else None
        if version is not None and version != "0.4":
            raise _unsupported(where, f"{field}.version", str(version))
    return attributes, "0.4"


def _unsupported(where: str, field: str, version: str) -> UserError:
    return UserError(
        f"{where}: {field}: OME-NGFF {version} is not supported, only 0.4 and 0.5; convert it to one of these"
    )


def parse_plate(ome: dict[str, Any], version: str, where: str) -> tuple[str, ...]:
    """The wells' paths ("A/4") in the plate's order; UserError for a document that is not a plate's."""
    document = _object(ome.get("plate"), where, "plate")
    for index, well in enumerate(_list(document.get("wells"), where, "plate.wells")):
        path = well.get("path") if isinstance(well, dict) else None
        if isinstance(path, str):  # anything else is the model's to refuse
            check_relative(path, f"{where}: plate.wells.{index}.path")
    plate = _validate("plate", {"version": version, **document}, version, where)
    wells = tuple(well.path for well in plate.wells)
    _check_unique(wells, where, "plate.wells")
    return wells


def parse_well(ome: dict[str, Any], version: str, where: str) -> tuple[str, ...]:
    """The paths of a well's images in its order; UserError for a document that is not a well's."""
    document = {key: value for key, value in _object(ome.get("well"), where, "well").items() if key != "version"}
    images = []
    for index, image in enumerate(_list(document.get("images"), where, "well.images")):
        image = _with_text_path(image)
        if isinstance(image, dict) and isinstance(image.get("path"), str):
            check_relative(image["path"], f"{where}: well.images.{index}.path")
        images.append(image)
    well = _validate("well", {**document, "images": images}, version, where)
    paths = tuple(image.path for image in well.images)
    _check_unique(paths, where, "well.images")
    return paths


def parse_image(ome: dict[str, Any], version: str, where: str) -> ImageMetadata:
    """What an image's (or label's) document says of its first multiscale; UserError where it is not valid."""
    multiscales = _list(ome.get("multiscales"), where, "multiscales")
    if not multiscales:
        raise UserError(f"{where}: multiscales: is empty, so there is no image; write the image again")
    document = _repair_multiscale(_object(multiscales[0], where, "multiscales.0"))
    if (count := len(_as_list(document.get("datasets")))) > _MOST_RESOLUTIONS:
        raise UserError(
            f"{where}: multiscales.0.datasets: lists {count} resolutions (at most {_MOST_RESOLUTIONS}); "
            "write the image again"
        )
    _check_no_truth(document, where)
    multiscale = _validate("multiscales", document, version, where, field="multiscales.0")
    axes = _axis_letters(multiscale.axes, where)
    paths = tuple(
        check_relative(dataset.path, f"{where}: multiscales.0.datasets.{index}.path")
        for index, dataset in enumerate(multiscale.datasets)
    )
    shared = _scale_vector(multiscale.coordinateTransformations, len(axes), where)
    scales = []
    for dataset in multiscale.datasets:
        steps = _scale_vector(dataset.coordinateTransformations, len(axes), where)
        stored = dict(zip(axes, (a * b for a, b in zip(steps, shared, strict=True)), strict=True))
        scales.append(tuple(stored.get(axis, 1.0) for axis in AXES))
    units = dict(zip(axes, (axis.unit for axis in multiscale.axes), strict=True))
    size = tuple(scales[0][AXES.index(axis)] * _micrometres(units.get(axis), where) for axis in "zyx")
    if not all(_LEAST_STEP < step < 1 / _LEAST_STEP for step in (*scales[0], *size)):
        raise UserError(f"{where}: multiscales.0: the scale {scales[0]} is no microscope's; write the pixel size in it")
    channels = _omero_channels(ome, where)
    labels = tuple(None if (label := channel.get("label")) in (None, "") else str(label) for channel in channels)
    return ImageMetadata(axes, paths, tuple(scales), size, labels, tuple(map(_display, channels)))


def parse_labels(ome: dict[str, Any], where: str) -> tuple[str, ...]:
    """The names of an image's labels; UserError where the list is malformed."""
    names = _list(ome.get("labels", []), where, "labels")
    return tuple(check_relative(str(name), f"{where}: labels.{index}") for index, name in enumerate(names))


def _repair_multiscale(document: dict[str, Any]) -> dict[str, Any]:
    """The same multiscale with the slips of real writers put right; whatever is not understood is left to the model."""
    document = {key: value for key, value in document.items() if key != "version"}
    axes = document.get("axes")
    if isinstance(axes, list):
        axes = [_repair_axis(axis) for axis in axes]
        document["axes"] = axes
        for dataset in (datasets := [_with_text_path(d) for d in _as_list(document.get("datasets"))]):
            if (
                isinstance(dataset, dict)
                and (given := dataset.get("coordinateTransformations"))
                and _is_identity(given)
            ):
                dataset["coordinateTransformations"] = [{"type": "scale", "scale": [1.0] * len(axes)}]
        if datasets:
            document["datasets"] = datasets
    if _is_identity(document.get("coordinateTransformations")):
        del document["coordinateTransformations"]
    return document


def _repair_axis(axis: Any) -> Any:
    if isinstance(axis, dict) and isinstance(axis.get("name"), str) and axis.get("type") is None:
        return {**axis, "type": _TYPE_OF_AXIS.get(axis["name"].lower())}
    return axis


def _with_text_path(item: Any) -> Any:
    if isinstance(item, dict):
        path = item.get("path")
        return {**item, "path": str(path)} if isinstance(path, int) and not isinstance(path, bool) else dict(item)
    return item


def _is_identity(transforms: Any) -> bool:
    return isinstance(transforms, list) and all(isinstance(t, dict) and t.get("type") == "identity" for t in transforms)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_no_truth(document: dict[str, Any], where: str) -> None:
    """The models take true for the number 1."""
    for holder in (document, *_as_list(document.get("datasets"))):
        transforms = holder.get("coordinateTransformations") if isinstance(holder, dict) else None
        for transform in _as_list(transforms):
            scale = _as_list(transform.get("scale")) if isinstance(transform, dict) else []
            if any(isinstance(step, bool) for step in scale):
                raise UserError(
                    f"{where}: multiscales.0: the scale {scale} holds no numbers; write the pixel size in it"
                )


def _axis_letters(axes: Sequence[Any], where: str) -> str:
    """One letter of "tczyx" per stored axis. Spatial axes may stand in any order if they are called x, y and z;
    other names count as z, y, x in the stored order."""
    spatial = [str(axis.name).lower() for axis in axes if axis.type == "space"]
    if not (set(spatial) <= set("zyx") and {"y", "x"} <= set(spatial)):
        spatial = list("zyx"[-len(spatial) :])
    letters = []
    for index, axis in enumerate(axes):
        if axis.type not in ("time", "channel", "space"):
            raise UserError(
                f"{where}: multiscales.0.axes.{index}: the axis {axis.name!r} of type {axis.type!r} is not supported; "
                "only time, channel and space are: split the image along it"
            )
        letters.append({"time": "t", "channel": "c"}.get(axis.type) or spatial.pop(0))
    return "".join(letters)


def _scale_vector(transforms: Sequence[Any] | None, ndim: int, where: str) -> Sequence[float]:
    if not transforms:
        return [1.0] * ndim
    scale = getattr(transforms[0], "scale", None)
    if scale is None:
        raise UserError(
            f"{where}: multiscales.0: a scale kept in a file of its own is not supported; write the numbers"
        )
    if not all(math.isfinite(step) and step > 0 for step in scale):
        raise UserError(f"{where}: multiscales.0: the scale {scale} is not positive; write the pixel size in it")
    return scale


def _micrometres(unit: Any, where: str) -> float:
    factor = _UNIT_IN_UM.get(str(unit or "").strip().lower())
    if factor is None:
        raise UserError(f"{where}: multiscales.0.axes: the unit {unit!r} is not a length; write micrometer")
    return factor


def _omero_channels(ome: dict[str, Any], where: str) -> list[dict[str, Any]]:
    omero = ome.get("omero")
    if omero is None:
        return []
    channels = _list(_object(omero, where, "omero").get("channels", []), where, "omero.channels")
    return [channel if isinstance(channel, dict) else {} for channel in channels]


def _display(channel: dict[str, Any]) -> dict[str, Any]:
    """What is said of a channel beside its name; a window that is not of numbers is left out."""
    said = {key: value for key, value in channel.items() if key != "label" and value is not None}
    window = said.get("window")
    numbers = window.values() if isinstance(window, dict) else [None]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        said.pop("window", None)
    return said


def _validate(kind: str, document: dict[str, Any], version: str, where: str, field: str | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the models' remarks on what is unusual but understood
        try:
            return _MODELS[version][kind].model_validate(document)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
    place = ".".join([field or kind, *(str(part) for part in first["loc"])])
    message = " ".join(first["msg"].removeprefix("Value error, ").split()).rstrip(".")
    raise UserError(f"{where}: {place}: {message}; correct it to what OME-NGFF {version} says or write it again")


def _object(value: Any, where: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {field}: {_missing_or_wrong(value)} a JSON object; write the metadata again")
    return value


def _list(value: Any, where: str, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: {field}: {_missing_or_wrong(value)} a JSON array; write the metadata again")
    return value


def _missing_or_wrong(value: Any) -> str:
    return "is missing and must be" if value is None else f"is {type(value).__name__} and must be"


def _check_unique(paths: Sequence[str], where: str, field: str) -> None:
    if len(set(paths)) != len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise UserError(f"{where}: {field}: {twice!r} is listed twice; remove one")
