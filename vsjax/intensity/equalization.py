"""Contrast-limited adaptive histogram equalisation (CLAHE; Zuiderveld 1994, Graphics Gems IV) of channels of a plate.

VSNeuromast is fine-tuned on stains equalised in three dimensions, with a kernel of 5 x 32 x 32 voxels, zyx (Liu et
al. 2025, Methods "VSNeuromast"), which makes dim and bright cells more alike. The equalised channels are written into a
new plate beside all the channels of the old one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.exposure import equalize_adapthist

from vsjax.errors import UserError
from vsjax.intensity.statistics import ATTRIBUTE as STATISTICS
from vsjax.plates.arrays import read
from vsjax.plates.ngff import AXES
from vsjax.plates.position import Position
from vsjax.plates.reader import Plate
from vsjax.plates.storage import Store, check_apart, resolve
from vsjax.plates.writer import PlateWriter, create_plate
from vsjax.plates.zarr_group import open_top

SUFFIX = "_clahe"  # of the new channels' names
ATTRIBUTE = "equalization"  # what made the plate, on its top and on each position; "finished" once all is on disk
_NOT_COPIED = {"ome", "multiscales", "omero", "plate", "labels", STATISTICS}  # written anew, or of the old plate only


@dataclass(frozen=True)
class Equalization:
    """Which channels are equalised, and how.

    Attributes:
        channels: their names.
        kernel: voxels (z, y, x) of the region whose histogram is equalised.
        clip_limit: share of a region's voxels that one of the 256 grey values may hold, from 0 to 1; larger values
            give more contrast.
    """

    channels: tuple[str, ...]
    kernel: tuple[int, int, int] = (5, 32, 32)
    clip_limit: float = 0.01

    def __post_init__(self) -> None:
        """Check every field. Raises `UserError`."""
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise UserError(f"--clahe {' '.join(self.channels)}: give the name of one channel or more, each once")
        if len(self.kernel) != 3 or min(self.kernel) < 1:
            raise UserError(f"--kernel {self.kernel}: give three numbers of voxels (z, y, x), each at least 1")
        if not 0 < self.clip_limit <= 1:
            raise UserError(f"--clip-limit {self.clip_limit}: give a number above 0 and at most 1")

    def record(self, source: str) -> dict[str, Any]:
        """What the new plate says of itself, as JSON gives it back."""
        return {"input": source, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}


def equalize(volume: np.ndarray, kernel: Sequence[int], clip_limit: float = 0.01) -> np.ndarray:
    """Equalise a volume [Z, Y, X] by regions of `kernel` voxels: float32 from 0 to 1, whatever the intensities' units.

    The range from the volume's least to its largest value is divided into the grey values. Takes fourteen times the
    memory of the volume in float32. Raises ValueError where it holds NaN or infinite values, or one value only.
    """
    volume = np.asarray(volume, np.float64)
    low, high = volume.min(), volume.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("NaN or infinite values")
    if low == high:
        raise ValueError(f"the value {low:g} only")
    return equalize_adapthist((volume - low) / (high - low), kernel, clip_limit).astype(np.float32)


def equalize_plate(
    plate: Plate,
    output: str | Path,
    settings: Equalization,
    *,
    overwrite: bool = False,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> None:
    """Write a new plate: all channels of `plate`, and NAME_clahe for each that is equalised, volume by volume.

    Positions, axes, scale, version, names, display settings and further attributes are the old plate's, except its
    statistics. Pixels are float32, or float64 where the old type does not fit into float32. Labels and coarser levels
    are not copied. Interrupted, the same call continues with the position that was not finished.

    Args:
        plate: the plate or single image.
        output: where; a local path, file://, gs:// or s3://.
        settings: channels, kernel and limit.
        overwrite: delete what is at `output` first.
        progress: wraps the iterable over volumes, called with `total` and `desc`, such as `tqdm.tqdm`.

    Raises UserError before anything is written for a channel that is missing or there already, and where something is
    in the way; during the work for a volume that cannot be read, is not finite or constant.
    """
    check_apart(plate.url, str(output))
    times = _check_positions(plate, settings)
    local = Store(plate.url).local_path
    record = settings.record(plate.url if local is None else str(local.resolve()))
    begun = not overwrite and _is_begun(output, record)
    writer = create_plate(
        output,
        ngff_version=plate.ngff_version,
        is_hcs=plate.is_hcs,
        overwrite=overwrite,
        resume=begun,
        position_names=list(times) if plate.is_hcs else (),
        attributes={**_further(plate.attributes), ATTRIBUTE: record},
    )
    rest = [name for name in times if not (begun and _is_finished(writer, name))]
    total = sum(times[name] for name in rest) * len(settings.channels)
    volumes = (step for name in rest for step in _equalize_position(plate[name], writer, settings, record))
    for _ in (progress or (lambda items, **_: items))(volumes, total=total, desc="equalising"):
        pass
    writer.write_attribute(ATTRIBUTE, {**record, "finished": True})


def _check_positions(plate: Plate, settings: Equalization) -> dict[str, int]:
    """The number of time points by position, after every one's channels are checked."""
    times = {}
    for position in plate.positions():
        for channel in settings.channels:
            position.channel_index(channel)
            if channel + SUFFIX in position.channel_names:
                raise UserError(
                    f"{position.where}: omero.channels: {channel + SUFFIX!r} is there already; "
                    f"leave {channel!r} out of --clahe"
                )
        times[position.name] = position.shape[0]
    if not times:
        raise UserError(f"{plate.url}: has no positions; write images into it first")
    return times


def _is_begun(output: str | Path, record: dict[str, Any]) -> bool:
    """Whether the same command began this output; UserError where it is complete or was made by another command."""
    store = Store(output)
    found = open_top(store)[1].get(ATTRIBUTE) if store.is_zarr() else None
    if not isinstance(found, dict):
        return False  # `create_plate` refuses what is in the way
    finished = found.pop("finished", False)
    for field, new in record.items():
        if found.get(field) != new:
            raise UserError(
                f"{output}: was begun with {field} = {found.get(field)!r}, not {new!r}; repeat the command that began "
                "it, choose another --output, or --overwrite"
            )
    if finished:
        raise UserError(f"{output}: is complete already; choose another --output, or --overwrite")
    return True


def _is_finished(writer: PlateWriter, name: str) -> bool:
    try:
        found = writer.plate[name].attributes.get(ATTRIBUTE)
    except UserError:  # not created yet
        return False
    return isinstance(found, dict) and bool(found.get("finished"))


def _equalize_position(
    source: Position, writer: PlateWriter, settings: Equalization, record: dict[str, Any]
) -> Iterator[None]:
    """Write one position, yielding after each volume that was equalised."""
    indices = [source.channel_index(channel) for channel in settings.channels]
    times, channels, *space = source.shape
    dtype = np.promote_types(source.dtype, np.float32)
    target = writer.create_position(
        source.name,
        shape=(times, channels + len(indices), *space),
        dtype=dtype,
        channel_names=[*source.channel_names, *(channel + SUFFIX for channel in settings.channels)],
        pixel_size_um=source.pixel_size_um,
        axes="".join(axis for axis in AXES if axis in source.axes or axis == "c"),
        scale=(source.scale[0], 1.0, *source.pixel_size_um),
        attributes={**_further(source.attributes), ATTRIBUTE: record},
    )
    _keep_display(source, target)
    for time in range(times):
        stack = read(source.array()[time].read(), source.url).astype(dtype)  # [C, Z, Y, X]
        equalized = []
        for channel, index in zip(settings.channels, indices, strict=True):
            try:
                equalized.append(equalize(stack[index], settings.kernel, settings.clip_limit))
            except ValueError as error:
                raise UserError(
                    f"{source.url}: channel {channel!r}, time point {time}, holds {error}, which cannot be equalised; "
                    "repair it and repeat the command, or take the position out of the plate and add --overwrite"
                ) from error
            yield
        resolve(target.array()[time].write(np.concatenate([stack, equalized])), target.url, action="written")
    target.write_attribute(ATTRIBUTE, {**record, "finished": True})


def _keep_display(source: Position, target: Position) -> None:
    """Give the copied channels the colours, windows and what else `omero` says of them in the old plate."""
    old = (source.attributes.get("ome", source.attributes).get("omero") or {}).get("channels", [])
    part = target.attributes.get("ome", target.attributes)
    channels = list(part["omero"]["channels"])
    for index, said in enumerate(old):
        if isinstance(said, dict):
            channels[index] = {**channels[index], **{key: value for key, value in said.items() if value is not None}}
    omero = {**part["omero"], "channels": channels}
    if "ome" in target.attributes:
        target.write_attribute("ome", {**part, "omero": omero})
    else:
        target.write_attribute("omero", omero)


def _further(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes that neither OME-NGFF nor this program writes."""
    return {key: value for key, value in attributes.items() if key not in _NOT_COPIED}
