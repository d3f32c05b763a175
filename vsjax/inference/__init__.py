"""From a checkpoint and an image to a prediction: tiling, blending, test-time augmentation, the predictor, and whole
plates. `vsjax/__init__.py` says what it may import."""
