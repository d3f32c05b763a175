"""How good a prediction is. `pixel` is the first level; the instance level (masks of nuclei and cells) and the feature
level (CellProfiler measurements) join it as `instance` and `feature`, and `report` writes the tables and figures of
all of them."""
