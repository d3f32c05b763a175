"""The OME-NGFF 0.4 and 0.5 documents that vsjax writes, built with `ome-zarr-models`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ome_zarr_models.common.omero import Channel, Omero, Window
from ome_zarr_models.common.plate import WellInPlate
from ome_zarr_models.v04.axes import Axis as Axis04
from ome_zarr_models.v04.multiscales import Dataset as Dataset04
from ome_zarr_models.v04.multiscales import Multiscale as Multiscale04
from ome_zarr_models.v05.axes import Axis as Axis05
from ome_zarr_models.v05.multiscales import Dataset as Dataset05
from ome_zarr_models.v05.multiscales import Multiscale as Multiscale05

from vsjax.plates.ngff import (
    AXES,
    LenientColumn,
    LenientPlate04,
    LenientPlate05,
    LenientRow,
    LenientWell04,
    LenientWell05,
    LenientWellImage,
)

_UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_COLORS = ("FFFFFF", "0000FF", "00FF00", "FF00FF", "FFFF00", "00FFFF")


def wrap(ome: dict[str, Any], version: str) -> dict[str, Any]:
    """A group's attributes that hold the OME part `ome`: as it is in 0.4, under "ome" with the version in 0.5."""
    return ome if version == "0.4" else {"ome": {"version": version, **ome}}


def plate_part(wells: Sequence[str], version: str) -> dict[str, Any]:
    """The OME part of a plate with these wells ("A/4"); rows and columns in the order in which they first occur."""
    rows = list(dict.fromkeys(well.split("/")[0] for well in wells))
    columns = list(dict.fromkeys(well.split("/")[1] for well in wells))
    row_index = {name: index for index, name in enumerate(rows)}
    column_index = {name: index for index, name in enumerate(columns)}
    model = {"0.4": LenientPlate04, "0.5": LenientPlate05}[version]
    plate = model(
        rows=[LenientRow(name=name) for name in rows],
        columns=[LenientColumn(name=name) for name in columns],
        wells=[
            WellInPlate(path=well, rowIndex=row_index[row], columnIndex=column_index[column])
            for well in wells
            for row, column in [well.split("/")]
        ],
        version=version,
    )
    return {"plate": plate.model_dump(exclude_none=True)}


def well_part(images: Sequence[str], version: str) -> dict[str, Any]:
    """The OME part of a well with these images (names, in order)."""
    model = {"0.4": LenientWell04, "0.5": LenientWell05}[version]
    well = model(images=[LenientWellImage(path=name) for name in images], version=version)
    return {"well": well.model_dump(exclude_none=True)}


def image_part(axes: str, scale: Sequence[float], name: str, version: str) -> dict[str, Any]:
    """The OME part of an image with one resolution "0"; `scale` is canonical (t, c, z, y, x), `axes` stored."""
    models = {"0.4": (Multiscale04, Dataset04, Axis04), "0.5": (Multiscale05, Dataset05, Axis05)}
    multiscale, dataset, axis_model = models[version]
    stored = [float(scale[AXES.index(axis)]) for axis in axes]
    document = multiscale(
        axes=[axis_model(name=axis, type=_TYPES[axis], unit=_UNITS.get(axis)) for axis in axes],
        datasets=(dataset.build(path="0", scale=stored, translation=None),),
        name=name,
        **({"version": "0.4"} if version == "0.4" else {}),
    )
    return {"multiscales": [document.model_dump(exclude_none=True)]}


def display_window(low: float, high: float) -> dict[str, Any]:
    """What `omero_part` takes for a channel that viewers shall show from `low` to `high`."""
    return {"window": Window(min=low, max=high, start=low, end=high).model_dump()}


def omero_part(
    channel_names: Sequence[str], dtype: np.dtype, display: Sequence[Mapping[str, Any]], version: str
) -> dict[str, Any]:
    """The `omero` block: the channels' names, and how a viewer shows them.

    Args:
        channel_names: one per channel.
        dtype: of the pixels: its range is the window, 0 to 1 for floats.
        display: per channel what `omero` shall say instead, such as "color" and "window"; may be empty.
        version: "0.4" or "0.5".
    """
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0.0, 1.0)
    window = display_window(float(low), float(high))
    channels = [
        Channel(label=label, color=_COLORS[index % len(_COLORS)], active=True, **window)
        for index, label in enumerate(channel_names)
    ]
    omero = Omero(channels=channels).model_dump(exclude_none=True)
    for channel, chosen in zip(omero["channels"], display or [{}] * len(channels), strict=True):
        channel.update(chosen)
    return {"omero": {**omero, "version": version} if version == "0.4" else omero}
