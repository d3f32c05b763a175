"""`config.data`: plates, patches, and where they are taken."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vsjax.schema import Document, Name

Size = Annotated[int, Field(ge=1, le=2**15, description="voxels; no device holds more along an axis")]


class DataSettings(Document):
    """Each field's description is what it is."""

    plates: tuple[Name, ...] = Field((), description="paths or URLs of OME-Zarr plates; repeat the flag for several")
    weights: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (), description="share of each plate in a batch; equal where empty"
    )
    train_fovs: tuple[Name, ...] = Field((), description="`A/4/0`, or a well `A/4`; empty for all that do not validate")
    val_fovs: tuple[Name, ...] = Field((), description="as train_fovs")
    val_fraction: float = Field(
        0.2, ge=0, lt=1, description="of each plate's FOVs, drawn by the seed, where no FOV is named"
    )
    patch: tuple[Size, Size, Size] = Field((5, 256, 256), description="voxels (z, y, x) that the network sees")
    val_patch: tuple[Size, ...] = Field((), description="the same for validation; empty for `patch`")
    val_patches: int = Field(64, ge=1, le=10**6, description="validation takes at most so many")
    batch_size: int = Field(8, ge=1, le=2**16, description="patches per step")
    crops_per_fov: int = Field(
        1, ge=1, le=64, description="crops in a row of each FOV that is drawn: more are read faster, but look alike"
    )
    importance_channel: str = Field(
        "",
        max_length=4096,
        description="crops are drawn in proportion to this channel's intensity; uniformly where empty",
    )
    read_threads: int = Field(4, ge=1, le=256, description="reads at a time; more wait for the same disk")
    prefetch: int = Field(4, ge=1, le=256, description="batches that are read ahead, in memory")

    @model_validator(mode="after")
    def _three_sizes(self) -> Self:
        if len(self.val_patch) not in (0, 3):
            raise ValueError(f"val_patch={self.val_patch} must hold three numbers of voxels, (z, y, x), or none")
        return self
