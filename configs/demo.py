"""The demonstration: a small UNeXt2 on a simulated plate, some six minutes on two cores (`scripts/demo.sh`)."""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, small_data_augmentation


def get_config() -> ConfigDict:
    """The experiment."""
    config = base_config(
        "unext2",
        backbone="convnextv2_atto",
        stem_kernel_size=(5, 4, 4),
        decoder_conv_blocks=1,
        head_expansion_ratio=2,
        head_pool=True,
        input_gain=0.2,
    )
    config.roles.source = channel_role("BF")
    config.roles.target = channel_role("nuclei", "membrane")  # not the IQR: of sparse nuclei it is the background's
    config.data.val_fovs = ("A/1/0", "A/1/1")
    config.data.patch = (5, 128, 128)
    config.data.importance_channel = "nuclei"
    config.augment.update(small_data_augmentation(intensity_scale=0.2))
    config.task.loss.scales = 4
    config.optim.update(learning_rate=1e-3, warmup_steps=50, average_decay=0.99)
    config.train.update(steps=600, validate_every=200, save_every=200, best="pearson")
    return config
