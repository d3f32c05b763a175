"""The only training loop, `loop.py`, which reads from top to bottom and keeps its details in the other files: initial
weights, metric writers, sample images, averages, restarts, preemption. `vsjax/__init__.py` says what it may import."""
