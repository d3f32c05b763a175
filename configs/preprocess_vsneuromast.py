"""What VSNeuromast's fine-tuning wants of a plate: equalised stains, and statistics (Liu et al. 2025, "VSNeuromast").

python -m vsjax.preprocess --config configs/preprocess_vsneuromast.py --plate isim.zarr --output isim_clahe.zarr
"""

from ml_collections import ConfigDict

from vsjax.steps import step_section


def get_config() -> ConfigDict:
    """The steps, in this order, and the statistics of what comes out."""
    return ConfigDict(
        {
            "steps": (step_section("equalize", channels=("nuclei", "membrane"), kernel=(5, 32, 32)),),
            "statistics": {"grid": 32},  # None leaves them out
        }
    )
