"""The machinery of the loop: random keys, mesh and sharding, optimisers, checkpoints, metric writers. `vsjax/train.py`
is the only loop that uses it."""
