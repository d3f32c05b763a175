"""Virtual staining of label-free microscopy in JAX/Flax. `vsjax.load(checkpoint)` gives a predictor; the programs are
`python -m vsjax.{preprocess,train,predict,evaluate,simulate}`."""

from vsjax.version import __version__

__all__ = ["__version__"]
