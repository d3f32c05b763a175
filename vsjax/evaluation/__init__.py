"""How good a prediction is, read from two plates: `pairing` finds what belongs together and brings it to the same
units, `requirements` reads what else a level wants, a level measures, sums up and draws, `journal` keeps what was
measured until all is, `report` writes the tables. `feature_maps` is what a network sees. `vsjax/__init__.py` says what
it may import."""
