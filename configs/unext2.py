"""UNeXt2 on any plate: the paper's network and loss (Liu et al. 2025), sized for one GPU.

python -m vsjax.train --config configs/unext2.py --workdir runs/a --config.data.plates=P.zarr

`--config configs/unext2.py:debug` is the same in a minute on two cores, for the plate of `vsjax.simulate`.
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, paper_augmentation, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config(
        "unext2",
        backbone="convnextv2_tiny",
        stem_kernel_size=(5, 4, 4),
        head_pool=True,
    )
    config.roles.source = channel_role("BF")
    config.roles.target = channel_role("nuclei", "membrane", statistic="median_iqr")
    config.augment.update(paper_augmentation())
    if mode == "debug":
        config.model.backbone = "convnextv2_atto"
        shrink(config, patch=(5, 64, 64))
    return config
