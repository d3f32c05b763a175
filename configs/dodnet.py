"""DoDNet, slice by slice: the U-Net of `configs/unet2d.py` with a dynamic head, of which all else is kept, so that the
head is what the two differ in; only dropout is left out, with which its kernels do not learn.

python -m vsjax.train --config configs/dodnet.py --workdir runs/dodnet --config.data.plates=hek.zarr

The paper (Zhang et al. 2021) segments organs in CT; virtual staining has no published recipe of it.
"""

from ml_collections import ConfigDict

from configs import unet2d
from configs.common import model_config


def get_config(mode: str = "") -> ConfigDict:
    """The experiment, `configs/unet2d.py` with another network; `mode` "debug" as there."""
    config = unet2d.get_config(mode)
    same = {name: config.model[name] for name in ("num_blocks", "num_filters", "residual")}
    config.model = model_config("dodnet", **same)
    return config
