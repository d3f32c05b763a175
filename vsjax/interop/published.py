"""What the published models were trained on: their weights say nothing of channels and normalisation.

Sources: Liu et al. 2025 (Methods, "Model training") for VSCyto3D, VSCyto2D and VSNeuromast; VisCy's own scripts for the
newer VSCyto3D of 15 slices, which the paper does not describe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vsjax.intensity.normalization import Normalization
from vsjax.models.network import numbered
from vsjax.models.unext2 import BACKBONES

_PHASE, _STAINS = ("Phase3D",), ("nuclei", "membrane")
_TINY = "convnextv2_tiny"
_DATASET_IQR = Normalization(scope="dataset", statistic="median_iqr")
_FOV_IQR = Normalization(scope="fov", statistic="median_iqr")
_FOV_Z_SCORE = Normalization(scope="fov", statistic="mean_std")


@dataclass(frozen=True)
class Recipe:
    """Channels and normalisation that go with a network.

    Attributes:
        title: what the network looks like, for the user.
        source_channels, target_channels: names, as many as the network has channels.
        source, target: how each is normalised.
        numbered: the roles, of source and target, whose names nothing tells, so that they are `target_0`, ...
        unstored: settings of the published model that its weights do not tell.
    """

    title: str
    source_channels: tuple[str, ...]
    target_channels: tuple[str, ...]
    source: Normalization
    target: Normalization
    unstored: Mapping[str, Any] = field(default_factory=dict)
    numbered: tuple[str, ...] = ()


def find_recipe(name: str, settings: Mapping[str, Any]) -> Recipe:
    """The published model of the same network, sizes and depth, or else a guess that says so in its title.

    name: of the network; settings: every setting of it that its weights tell.
    """
    inputs, outputs, depth = settings["in_channels"], settings["out_channels"], settings.get("in_stack_depth", 1)
    source = _PHASE if inputs == 1 else numbered("source", inputs)
    nameless = () if inputs == 1 else ("source",)
    if name == "fcmae" and inputs == outputs and not settings["head_conv"]:
        title = "an FCMAE after pre-training, which restores its input"
        return Recipe(title, source, source, _FOV_Z_SCORE, _FOV_Z_SCORE, numbered=nameless)
    is_tiny = tuple(settings.get("dims", ())) == BACKBONES[_TINY][1] or settings.get("backbone") == _TINY
    if is_tiny and (inputs, outputs) == (1, 2) and (name, depth) in _PUBLISHED:
        return _PUBLISHED[name, depth]
    target = numbered("target", outputs)
    return Recipe("no published model", source, target, _FOV_Z_SCORE, _FOV_IQR, numbered=(*nameless, "target"))


def _published(title: str, source: Normalization, target: Normalization, **unstored: Any) -> Recipe:
    return Recipe(f"the published {title}", _PHASE, _STAINS, source, target, unstored)


# By network and slices. VSNeuromast is UNeXt2 in its paper, and there are FCMAE networks of its depth.
_PUBLISHED = {
    ("unext2", 5): _published("VSCyto3D", _DATASET_IQR, _DATASET_IQR, head_pool=True),
    ("fcmae", 15): _published("VSCyto3D of 15 slices", _FOV_IQR, _FOV_IQR),
    ("fcmae", 1): _published("VSCyto2D", _FOV_Z_SCORE, _FOV_IQR),
    ("unext2", 21): _published("VSNeuromast", _FOV_IQR, _FOV_IQR, head_pool=True),
    ("fcmae", 21): _published("VSNeuromast", _FOV_IQR, _FOV_IQR),
}
