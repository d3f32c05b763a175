"""Palette on brightfield: a conditional diffusion that draws five stains (DiffStain's baseline, Han et al. 2025).

python -m vsjax.train --config configs/palette.py --workdir runs/palette --config.data.plates=JUMP.zarr

`--config configs/palette.py:debug` is the same in a minute or two on two cores, for the plate of `vsjax.simulate`.
"""

from ml_collections import ConfigDict

from configs.common import cell_painting, diffusion_config


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch, process and steps."""
    config = diffusion_config()
    cell_painting(config)
    return config
