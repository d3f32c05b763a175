"""VSCyto2D, step 2 of 3: phase to nuclei and membrane, from step 1's encoder (Liu et al. 2025, Methods "VSCyto2D").

python -m vsjax.train --config configs/vscyto2d.py --workdir runs/vscyto2d \\
    --config.init.checkpoint=runs/pretrain --config.data.plates="('hek.zarr', 'a549.zarr')"

Without `--config.init.checkpoint` it is the paper's training from scratch. `--config.init.freeze=encoder` keeps the
encoder as it was pre-trained; the paper tried both.
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, paper_augmentation, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("fcmae", stem_kernel_size=(1, 2, 2), decoder_conv_blocks=2)
    config.init.load = "encoder"  # the decoder has other blocks and another output
    config.dtype = "bfloat16"
    config.roles.source = channel_role("Phase")
    config.roles.target = channel_role("nuclei", "membrane", statistic="median_iqr")
    config.data.weights = ()  # each plate gives as many crops as any other, whatever its size ("equal weights")
    config.data.patch = (1, 256, 256)
    config.data.batch_size = 32
    config.data.importance_channel = "nuclei"
    config.augment.update(paper_augmentation(scale_xy=0.3, flips=True))
    config.task.loss.update(l1=0.5, l2=0.0, ms_dssim=0.5, scales=5)
    config.optim.update(learning_rate=2e-4, schedule="cosine", warmup_epochs=3)
    config.train.epochs = 400  # the paper does not say; the published weights are from epoch 400
    if mode == "debug":
        config.model.update(encoder_blocks=(1, 1, 1, 1), dims=(8, 16, 32, 64), depthwise="conv")
        shrink(config, patch=(1, 32, 32))
    return config
