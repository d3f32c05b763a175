"""Intensities of a plate's channels: distributions, statistics, normalisation, equalisation. `vsjax/__init__.py` says
what it may import."""
