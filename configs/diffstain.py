"""DiffStain (Han et al. 2025): what `configs/palette.py` trains, guided by masks of neural spectral clustering when it
draws.

python -m vsjax.predict --checkpoint runs/diffstain --input P.zarr --output S.zarr --features weights/dino

A run of `configs/palette.py` gives the same with `vsjax.predict --sampler masks=nsc`. Features are those of
`--features`, converted DINO weights or a run of this project; without, plain features of patches.
"""

from ml_collections import ConfigDict

from configs.palette import get_config as palette


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" is that of Palette."""
    config = palette(mode)
    config.task.sampler.masks = "nsc"
    return config
