"""A 2-D U-Net, slice by slice: what depth adds is its difference to `configs/unet25d.py`, of which all else is kept.

python -m vsjax.train --config configs/unet2d.py --workdir runs/unet2d --config.data.plates=hek.zarr

No paper gives this recipe; VisCy has the network.
"""

from ml_collections import ConfigDict

from configs.common import base_config, paper_augmentation, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("unet2d", residual=True)
    config.data.target = ("nuclei", "membrane")
    config.data.patch = (1, 512, 512)
    config.data.batch_size = 32
    config.data.importance_channel = "nuclei"
    config.data.source_normalization.update(level="dataset", statistic="median_iqr")
    config.data.target_normalization.update(level="dataset", statistic="median_iqr")
    config.augment.update(paper_augmentation(scale_xy=0.5))
    config.loss.update(l1=0.5, l2=0.0, ms_dssim=0.5, scales=5)
    config.optim.update(learning_rate=2e-4, schedule="cosine", warmup_epochs=3)
    config.train.epochs = 100
    if mode == "debug":
        config.model.update(num_blocks=2, num_filters=(4, 8, 16))
        shrink(config, patch=(1, 32, 32))
    return config
