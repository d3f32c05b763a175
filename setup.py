"""Package definition of vsjax; `scripts/constraints.txt` pins what the scripts install."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vsjax" / "version.py").read_text()).group(1)

setup(
    name="vsjax",
    version=VERSION,
    description="Virtual staining of label-free microscopy in JAX/Flax",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["vsjax", "vsjax.*"]),
    install_requires=[
        "absl-py>=2.1",
        "clu>=0.0.12",
        "dm-pix>=0.4.4",
        "flax>=0.12",
        "grain>=0.2.12",
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "ml-dtypes>=0.5",
        "numpy>=2.0",
        "ome-zarr-models>=1.3",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.25",
        "pillow>=10.4",
        "pydantic>=2.10",
        "safetensors>=0.5",
        "scipy>=1.14",
        "scikit-image>=0.25",
        "tensorboardX>=2.6",
        "tensorstore>=0.1.76",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "dev": ["hypothesis", "pytest", "pytest-xdist", "ruff", "tifffile", "zarr>=3.0"],
    },
)
