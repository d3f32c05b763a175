"""Palette† of DiffStain's Table 1: what `configs/palette.py` trains, drawn under the guidance of masks from local
thresholds.

A run of `configs/palette.py` gives the same with `vsjax.predict --sampler masks=threshold`.
"""

from ml_collections import ConfigDict

from configs.palette import get_config as palette


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" is that of Palette."""
    config = palette(mode)
    config.task.sampler.masks = "threshold"
    return config
