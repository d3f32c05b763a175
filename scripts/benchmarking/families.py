"""The families that are measured. A new one adds one entry."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One line of the training table.

    Attributes:
        config: the file of `configs/` whose task and network are taken.
        patch: voxels (z, y, x) of one sample of a training step.
        batch: samples of a training step.
        viscy: VisCy's class of the same network, in `viscy_networks.NETWORKS`; None where VisCy has none.
        masked: whether the step is that of a masked pre-training.
        changes: fields of the config that are set otherwise, such as `{"model.residual": False}`.
    """

    config: str
    patch: Size
    batch: int = 2
    viscy: str | None
    masked: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    def with_sizes(self, patch: Size | None, batch: int | None) -> "Family":
        """The same on other sizes; None leaves one as it is."""
        return replace(self, patch=tuple(patch or self.patch), batch=batch or self.batch)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


FAMILIES: dict[str, Family] = {
    "unext2": Family(config="unext2", patch=(5, 256, 256), viscy="UNeXt2"),
    "fcmae": Family(config="vscyto2d_pretrain", patch=(1, 256, 256), viscy="FullyConvolutionalMAE", masked=True),
    "vscyto2d": Family(config="vscyto2d", patch=(1, 256, 256), viscy="FullyConvolutionalMAE"),
    "unet25d": Family(config="unet25d", patch=(5, 256, 256), viscy="Unet25d"),
    "unet2d": Family(config="unet2d", patch=(1, 256, 256), viscy="Unet2d"),
    "fnet3d": Family(config="fnet3d", patch=(32, 64, 64), viscy=None),
    "dodnet": Family(config="dodnet", patch=(1, 256, 256), viscy=None),
}
