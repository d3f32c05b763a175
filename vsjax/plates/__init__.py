"""What a plate is: where it lies, OME-NGFF metadata, TensorStore arrays, reading, writing, and plates that are made
from plates by steps. `vsjax/__init__.py` says what it may import."""
