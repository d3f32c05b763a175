"""The machinery of the loop: initial weights, metric writers, sample images, averages, restarts, preemption.
`vsjax/train.py` reads from top to bottom and keeps its details here. `vsjax/__init__.py` says what it may import."""
