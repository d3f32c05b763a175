"""Palette: a conditional diffusion draws five stains from brightfield (DiffStain, Han et al. 2025, Table 1).

python -m vsjax.train --config configs/palette.py --workdir runs/palette --config.data.plates=JUMP.zarr

`--config configs/palette.py:debug` is the same in a minute or two on two cores, for a plate of
`vsjax.simulate --channels BF nuclei membrane organelles`.
"""

from ml_collections import ConfigDict

from configs.common import cell_painting, diffusion_config, small_cell_painting


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch, process and steps."""
    config = diffusion_config()
    cell_painting(config)
    if mode == "debug":
        small_cell_painting(config)
    return config
