"""FNet3D (Ounkomol et al. 2018, Nat Methods 15:917, Methods): a stack of transmitted light to one stain.

python -m vsjax.train --config configs/fnet3d.py --workdir runs/fnet3d --config.data.plates=P.zarr

Every axis of the patch must be divisible by 2**model.depth, so a stack needs 16 slices at the least.
"""

from ml_collections import ConfigDict

from configs.common import base_config, channel_role, shrink


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch and steps."""
    config = base_config("fnet3d", depth=4, mult_chan=32)
    config.roles.target = channel_role("nuclei")  # one network for each stain
    config.data.patch = (32, 64, 64)
    config.data.batch_size = 24
    config.task.loss.update(l1=0.0, l2=1.0, ms_dssim=0.0)
    # Adam: no decay of the weights, no schedule
    config.optim.update(learning_rate=1e-3, schedule="constant", warmup_steps=0, b1=0.5, b2=0.999, weight_decay=0.0)
    config.train.steps = 50_000
    if mode == "debug":
        config.model.update(depth=2, mult_chan=4)
        shrink(config, patch=(4, 32, 32))
    return config
