"""From a checkpoint and an image to a prediction: tiling, blending, test-time augmentation, the predictor, and whole
plates. It may import everything to its left, never `evaluation`."""
