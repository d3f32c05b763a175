"""Contrast-limited adaptive histogram equalisation (CLAHE; Zuiderveld 1994, Graphics Gems IV) of channels of a plate.

VSNeuromast is fine-tuned on stains equalised in three dimensions, with a kernel of 5 x 32 x 32 voxels, zyx (Liu et
al. 2025, Methods "VSNeuromast"), which makes dim and bright cells more alike. The equalised channels stand in a new
plate beside all the channels of the old one.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from skimage.exposure import equalize_adapthist

from vsjax.errors import UserError
from vsjax.plates.ngff import AXES
from vsjax.plates.step import Derived, ImageInfo, Job, Result
from vsjax.schema import Document, Names

SUFFIX = "_clahe"  # of the new channels' names
_SPARE = 1 << 24  # voxels: to so many a volume may be filled up to regions of the kernel
Voxels = Annotated[int, Field(ge=1, le=2**15)]


class Equalization(Document):
    """A step (`plates.step`): all channels of an image, and NAME_clahe for each that is equalised, volume by volume.

    Scale, axes, display settings and further attributes are the old image's, except its statistics. Pixels are float32,
    or float64 where the old type does not fit into float32. Labels and coarser resolutions are not copied.
    """

    name: ClassVar[str] = "equalize"
    about: ClassVar[dict[str, Any]] = {}

    channels: Names = Field(description="names of those that are equalised")
    kernel: tuple[Voxels, Voxels, Voxels] = Field(
        (5, 32, 32), description="voxels (z, y, x) of the region whose histogram is equalised"
    )
    clip_limit: float = Field(
        0.01, gt=0, le=1, description="share of a region that one of 256 grey values may hold: more is more contrast"
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All fields."""
        return self.model_dump(mode="json")

    def derive(self, image: ImageInfo) -> Derived:
        """What comes out of an image. UserError for a channel that is missing, or equalised already."""
        indices = [image.channel_index(channel) for channel in self.channels]
        added = tuple(channel + SUFFIX for channel in self.channels)
        for channel, name in zip(self.channels, added, strict=True):
            if name in image.channel_names:
                raise UserError(
                    f"{image.url}: omero.channels: {name!r} is there already; leave {channel!r} out of --channels"
                )
        times, channels, *space = image.shape
        padded, whole = np.prod(np.maximum(self.kernel, space).astype(float)), np.prod(space)
        if padded > max(_SPARE, 8 * whole):
            raise UserError(f"{image.url}: a kernel of {self.kernel} voxels does not suit a volume of {tuple(space)}")
        dtype = np.promote_types(image.dtype, np.float32)

        def apply(stack: np.ndarray, time: int, job: Job) -> Result:
            stack, equalized = stack.astype(dtype), []
            for channel, index in zip(self.channels, indices, strict=True):
                try:
                    equalized.append(equalize(stack[index], self.kernel, self.clip_limit))
                except ValueError as error:
                    raise UserError(
                        f"channel {channel!r} holds {error}, which cannot be equalised; repair it and repeat the "
                        "command, or take the position out of the plate and add --overwrite"
                    ) from error
                job.progress(1 / len(indices))
            return Result(pixels=np.concatenate([stack, equalized]))

        result = image.with_new_pixels(
            shape=(times, channels + len(indices), *space),
            dtype=dtype,
            channel_names=(*image.channel_names, *added),
            axes="".join(axis for axis in AXES if axis in image.axes or axis == "c"),
            display=(*image.display, *({},) * len(indices)),
        )
        return Derived(reads=tuple(range(channels)), image=result, apply=apply)


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
