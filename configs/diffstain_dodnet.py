"""DoDNet (Zhang et al. 2021) as in DiffStain's Table 1, on its data: a head is made for each image and stain."""

from ml_collections import ConfigDict

from configs.common import base_config, cell_painting, small_cell_painting


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("dodnet")
    cell_painting(config)
    config.data.batch_size = 1
    config.optim.learning_rate = 5e-4
    config.task.loss.update(l1=1.0, ms_dssim=0.0)
    if mode == "debug":
        config.model.num_filters = (16, 32, 64, 128, 256)
        small_cell_painting(config)
    return config
