"""The 2.5-D U-Net that Liu et al. 2025 compare with (Tables 1 and 2; network of Guo et al. 2020): five slices of phase
to the middle one of nuclei and membrane.

python -m vsjax.train --config configs/unet25d.py --workdir runs/unet25d --config.data.plates=hek.zarr

`--config.model.residual=False` is the plain network. Patch and epochs are Table 1's, the mixed loss Table 2's better
one; batch and rate, which neither gives, are VSCyto3D's, with which it is compared.
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, paper_augmentation, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("unet25d", residual=True, out_stack_depth=1)
    config.roles.source = channel_role("Phase", scope="dataset", statistic="median_iqr")
    config.roles.target = channel_role("nuclei", "membrane", scope="dataset", statistic="median_iqr")
    config.data.patch = (5, 512, 512)
    config.data.batch_size = 32
    config.data.importance_channel = "nuclei"
    config.augment.update(paper_augmentation(scale_xy=0.5))
    config.task.loss.update(l1=0.5, l2=0.0, ms_dssim=0.5, scales=5)
    config.optim.update(learning_rate=2e-4, schedule="cosine", warmup_epochs=3)
    config.train.epochs = 100
    if mode == "debug":
        config.model.update(num_blocks=2, num_filters=(4, 8, 16))
        shrink(config, patch=(5, 32, 32))
    return config
