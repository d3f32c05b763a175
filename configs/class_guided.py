"""Class-guided diffusion (Cross-Zamirski et al. 2023; Class_per and Class_tar of DiffStain's Table 1): Palette that
knows the perturbation of the well, or its target.

python -m vsjax.train --config configs/class_guided.py --workdir runs/class --config.data.plates=JUMP.zarr \\
    --config.roles.label.metadata=target "--config.roles.label.classes=('EGFR','TP53')"

The plate says the class in the attributes of a well or an image; `vsjax.predict` reads it there, unless `--sampler
label=EGFR` chooses one. `:debug` takes the wells themselves.
"""

from ml_collections import ConfigDict

from configs.common import cell_painting, diffusion_config, metadata_role, small_cell_painting


def get_config(mode: str = "") -> ConfigDict:
    """The experiment; `mode` "debug" shrinks network, patch, process and steps."""
    config = diffusion_config()
    cell_painting(config)
    config.roles.label = metadata_role("perturbation", "DMSO")
    if mode == "debug":
        small_cell_painting(config)
        config.roles.label = metadata_role("column", "1", "2", "3")
    return config
