"""VSCyto2D, step 3 of 3: the stains of step 2 on a new cell type with few images (Liu et al. 2025, Figure 4D-F).

python -m vsjax.train --config configs/vscyto2d_finetune.py --workdir runs/bj5ta \\
    --config.init.checkpoint=runs/vscyto2d --config.data.plates=bj5ta.zarr

6400 epochs are those of 6 FOVs; the paper took 1600 for 27 FOVs and 400 for 117, some equal number of steps.
"""

from ml_collections import ConfigDict

from configs import vscyto2d


def get_config(mode: str = "") -> ConfigDict:
    """The experiment, step 2 with other weights to begin with and a constant rate; `mode` "debug" as there."""
    config = vscyto2d.get_config(mode)
    config.init.load = "all"
    config.optim.update(learning_rate=2e-4, schedule="constant", warmup_epochs=0, warmup_steps=0)
    if mode != "debug":
        config.train.epochs = 6400
    return config
