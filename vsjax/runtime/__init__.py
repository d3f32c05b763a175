"""What training and inference share: the mesh, processes, checkpoints and what they say of themselves, random keys,
and what a compiled program costs. `vsjax/__init__.py` says what it may import."""
