"""How good a prediction is, read from two plates.

`pairing` finds what belongs together and brings it to the same units; a level measures one pair; `report` writes the
tables and `figures` the pictures, for whatever levels there are. `pixel` is the first level. The instance level (masks
of nuclei and cells) and the feature level (CellProfiler measurements) join it as `instance` and `feature`: a level is a
module as `level.Level` says, and `vsjax.evaluate.LEVELS` names those that there are.
"""
