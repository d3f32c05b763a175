"""Virtual staining of label-free microscopy in JAX/Flax.

The programs are `python -m vsjax.{simulate,preprocess,describe,train,predict,evaluate,features,convert}`; `vsjax.load`
gives a predictor, `vsjax.open_plate` the images, labels and statistics of an OME-Zarr plate.

What may import what: a module imports those of the lines above its own and of its own room, never those below
(`tests/test_imports.py` holds this table against the code).

    errors version
    schema
    disk memory
    plates
    intensity
    optics models losses metrics diffusion
    data simulation
    tasks
    runtime
    training inference interop
    evaluation
    steps
    program
    simulate preprocess describe train predict evaluate features convert
"""

from typing import TYPE_CHECKING, Literal

from vsjax.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from vsjax.inference.predictor import Predictor
    from vsjax.plates.reader import Plate

__all__ = ["__version__", "load", "open_plate"]


def load(path: "str | Path", which: Literal["best", "last"] | None = None) -> "Predictor":
    """The predictor of a run or of converted weights: `vsjax.load("runs/a").predict(volume)`.

    Args:
        path: the run's folder.
        which: the best or the last checkpoint; by default the best where the run validated.

    Raises:
        UserError: there is no whole checkpoint.
    """
    from vsjax.inference.predictor import load as load_predictor  # here, so that `import vsjax` does not start JAX

    return load_predictor(path, which)


def open_plate(url: "str | Path") -> "Plate":
    """An OME-Zarr plate or single image, local or at gs://, s3:// or http(s)://; only its top document is read.

    `plate["A/1/0"]` is a position: `.channel_names`, `.array()[t, c, z, y, x].read().result()`, `.label_names()`,
    `.label("nuclei")`, `.pixel_size_um`, `.statistics("BF", "fov")`.

    Raises:
        UserError: there is no OME-NGFF 0.4 or 0.5 plate or image.
    """
    from vsjax.plates.reader import open_plate as read_plate

    return read_plate(url)
