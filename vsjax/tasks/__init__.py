"""What a training step is, one file per family: a Task is a small immutable object made from the config that joins a
model, a loss and an optimiser. It may import `data`, `models`, `losses` and `diffusion`, never the loop."""
