"""From a checkpoint and an image to a prediction: tiling, blending, test-time augmentation, draws, the predictor, and
whole plates, by a step. `vsjax/__init__.py` says what it may import."""
