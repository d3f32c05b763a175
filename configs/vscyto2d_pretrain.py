"""VSCyto2D, step 1 of 3: a masked autoencoder on phase alone (Liu et al. 2025, Methods "VSCyto2D", "Pre-training").

for P in hek.zarr a549.zarr; do python -m vsjax.preprocess --plate $P; done
python -m vsjax.train --config configs/vscyto2d_pretrain.py --workdir runs/pretrain \\
    --config.data.plates="('hek.zarr', 'a549.zarr')"

Then `configs/vscyto2d.py` (stains) and `configs/vscyto2d_finetune.py` (a new cell type). HEK293T is the 63x data
average-pooled by (9, 3, 3) in z, y, x, so that it looks like the 20x data.

Paper and published weights differ. The paper's patch of (5, 256, 256) with masks of 32 pixels belongs to a stem of
(5, 4, 4), of total stride 32; the weights published as VSCyto2D see one slice through a stem of (1, 2, 2), so a cell
of their mask has 16 pixels. This is the published network. For the other one, in all three steps:

    --config.data.patch="(5, 256, 256)" --config.model.stem_kernel_size="(5, 4, 4)"
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, paper_augmentation, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("fcmae", task="masked_pretraining", stem_kernel_size=(1, 2, 2), decoder_conv_blocks=1)
    config.task.mask_ratio = 0.5
    config.dtype = "bfloat16"  # "automatic mixed precision"
    config.roles.source = channel_role("Phase")
    config.data.patch = (1, 256, 256)
    config.data.batch_size = 32
    config.augment.update(paper_augmentation(scale_xy=0.3, flips=True))
    config.optim.update(learning_rate=2e-4, schedule="cosine", warmup_epochs=3)
    config.train.epochs = 800
    if mode == "debug":
        config.model.update(encoder_blocks=(1, 1, 1, 1), dims=(8, 16, 32, 64), depthwise="conv")
        shrink(config, patch=(1, 32, 32))
    return config
