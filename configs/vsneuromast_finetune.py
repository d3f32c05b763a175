"""VSNeuromast, step 3 of 3: equalised targets of another microscope (Liu et al. 2025, "VSNeuromast", "Fine-tuning").

python -m vsjax.preprocess --config configs/preprocess_vsneuromast.py --plate isim.zarr --output isim_clahe.zarr
python -m vsjax.train --config configs/vsneuromast_finetune.py --workdir runs/neuromast_isim \\
    --config.init.checkpoint=runs/neuromast --config.data.plates=isim_clahe.zarr
"""

from ml_collections import ConfigDict

from configs import vsneuromast


def get_config(mode: str = "") -> ConfigDict:
    """The experiment, step 2 with equalised targets, a tenth of its rate and more epochs; `mode` "debug" as there."""
    config = vsneuromast.get_config(mode)
    config.init.load = "all"
    config.optim.learning_rate = 2e-4
    if mode != "debug":
        config.roles.target.channels = ("nuclei_clahe", "membrane_clahe")
        config.data.importance_channel = "nuclei_clahe"
        config.data.batch_size = 6  # one dataset
        config.train.epochs = 45
    return config
