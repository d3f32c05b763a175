"""HeLa and RPE-1 cells: one slice of phase contrast to nuclei.

python -m vsjax.preprocess --plate hela_nuclei_v05.zarr
python -m vsjax.train --config configs/hela_nuclei.py --workdir runs/hela --config.data.plates=hela_nuclei_v05.zarr
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, small_data_augmentation


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" takes a few steps only."""
    config = base_config(
        "unext2",
        backbone="convnextv2_atto",
        stem_kernel_size=(1, 4, 4),
        decoder_conv_blocks=1,
        head_expansion_ratio=2,
        drop_path_rate=0.1,
        input_gain=0.2,
    )
    config.roles.source = channel_role("Phase")
    config.roles.target = channel_role("Nuclei")
    config.data.train_fovs = ("A/1/s10x0", "A/1/s10x1", "A/1/s10x2")
    config.data.patch = (1, 256, 256)
    config.data.val_patch = (1, 1024, 1024)
    config.data.importance_channel = "Nuclei"
    config.augment.update(small_data_augmentation(intensity_scale=0.3))
    config.task.loss.update(l1=0.0, l2=1.0, ms_dssim=0.0)
    config.optim.update(learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, average_decay=0.99)
    config.train.update(steps=500, validate_every=100, save_every=100)
    config.predict.tta = "mean"
    if mode == "debug":
        config.data.batch_size = 2
        config.optim.warmup_steps = 2
        config.train.update(steps=20, log_every=5, validate_every=10, save_every=10)
    return config
