"""The U-Net of DiffStain's Table 1, on its data: a regression of five stains at once."""

from ml_collections import ConfigDict

from configs.common import base_config, cell_painting, model_config, small_cell_painting


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("unet2d")
    cell_painting(config)
    config.data.batch_size = 1
    config.optim.learning_rate = 5e-4
    config.task.loss.update(l1=1.0, ms_dssim=0.0)
    if mode == "debug":
        config.model = model_config("unet25d", num_filters=(16, 32, 64, 128, 256))
        small_cell_painting(config)
    return config
