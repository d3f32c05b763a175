"""A 2-D U-Net, slice by slice: what depth adds is its difference to `configs/unet25d.py`, of which all else is kept.

python -m vsjax.train --config configs/unet2d.py --workdir runs/unet2d --config.data.plates=hek.zarr

No paper gives this recipe; VisCy has the network.
"""

from ml_collections import ConfigDict

from configs import unet25d
from configs.common import model_config


def get_config(mode: str = "") -> ConfigDict:
    """The experiment, `configs/unet25d.py` with single slices; `mode` "debug" as there."""
    config = unet25d.get_config(mode)
    small = {name: config.model[name] for name in ("num_blocks", "num_filters")}
    config.model = model_config("unet2d", residual=True, **small)
    config.data.patch = (1, *config.data.patch[1:])
    return config
