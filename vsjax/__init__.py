"""Virtual staining of label-free microscopy in JAX/Flax.

The programs are `python -m vsjax.{simulate,preprocess,train,predict,evaluate,convert}`; `vsjax.load` gives a predictor.
"""

from typing import TYPE_CHECKING, Literal

from vsjax.version import __version__

if TYPE_CHECKING:
    from vsjax.inference.predictor import Predictor

__all__ = ["__version__", "load"]


def load(path: str, which: Literal["best", "last"] | None = None) -> "Predictor":
    """The predictor of a run or of converted weights: `vsjax.load("runs/a").predict(volume)`.

    Args:
        path: the run's folder.
        which: the best or the last checkpoint; by default the best where the run validated.

    Raises:
        UserError: there is no whole checkpoint.
    """
    from vsjax.inference.predictor import load as load_predictor  # here, so that `import vsjax` does not start JAX

    return load_predictor(path, which)
