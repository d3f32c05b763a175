"""VSNeuromast, step 2 of 3: 21 slices, hot-started from the fifteen of step 1 (Liu et al. 2025, Methods "VSNeuromast").

python -m vsjax.train --config configs/vsneuromast.py --workdir runs/neuromast \\
    --config.init.checkpoint=runs/neuromast_15 \\
    --config.data.plates="('3dpf.zarr', '3dpf_cropped.zarr', '6dpf.zarr', '6dpf_cropped.zarr')"

The stem's kernel and the decoder's last stage depend on the depth and begin at random; the run's log names them.
"""

from ml_collections import ConfigDict

from configs import vsneuromast_15


def get_config(mode: str = "") -> ConfigDict:
    """The experiment, step 1 with a deeper patch, a stem to match and fewer epochs; `mode` "debug" as there."""
    config = vsneuromast_15.get_config(mode)
    config.init.load = "all"
    if mode == "debug":
        config.model.stem_kernel_size = (5, 4, 4)
        config.data.patch = (5, 32, 32)
    else:
        config.model.stem_kernel_size = (7, 4, 4)
        config.data.patch = (21, 384, 384)
        config.train.epochs = 30
    return config
