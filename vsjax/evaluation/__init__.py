"""How good a prediction is, read from two plates: `pairing` finds what belongs together and brings it to the same
units, a level measures, summarises and draws, `report` writes the tables. `vsjax/__init__.py` says what it may
import."""
