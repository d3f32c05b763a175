"""What a training step is and what predicting means, one file per family: a Task is a small immutable object made
from the config that owns its networks, losses and optimisers. `vsjax/__init__.py` says what it may import."""
