"""Human neurons of Christiansen et al. (Cell 2018): a 13-slice phase stack to DAPI, MAP2 and NFH.

python -m vsjax.preprocess --plate isl_neurons_v04.zarr
python -m vsjax.train --config configs/isl_neurons.py --workdir runs/isl --config.data.plates=isl_neurons_v04.zarr
"""

from ml_collections import ConfigDict

from configs.common import base_config


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" takes a few steps only."""
    config = base_config(
        "unext2",
        backbone="convnextv2_atto",
        stem_kernel_size=(13, 4, 4),
        out_stack_depth=1,
        decoder_conv_blocks=1,
        head_expansion_ratio=2,
    )
    config.data.source = ("Phase",)
    config.data.target = ("DAPI", "MAP2", "NFH")
    config.data.train_fovs = tuple(f"A/4/{n}" for n in range(6))
    config.data.patch = (13, 128, 128)
    config.data.val_patch = (13, 256, 320)
    config.data.target_normalization.update(level="dataset", statistic="mean_std")
    config.loss.scales = 4
    if mode == "debug":
        config.data.batch_size = 2
        config.optim.warmup_steps = 2
        config.train.update(steps=20, log_every=5, validate_every=10, save_every=10)
    return config
