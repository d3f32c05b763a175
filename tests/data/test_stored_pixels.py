"""Batches of pixels as they are stored, which are normalised after they were moved."""

import jax
import numpy as np
import pytest
from test_augmentation import EVERYTHING

from vsjax.data.augmentation import AugmentConfig, augment, oversized_patch


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig(rotation="right_angles", rotation_probability=1)])
def test_pixels_as_stored_become_what_normalised_ones_become(config):
    patch = (3, 12, 12)
    pixels = np.random.default_rng(0).integers(0, 60000, (4, *oversized_patch(config, patch), 2)).astype(np.uint16)
    location, scale = np.float32([[300, 20], [1, 40000], [0, 0], [9, 9]]), np.float32([[100, 9000], [1, 50]] * 2)
    normal = (pixels.astype(np.float32) - location[:, None, None, None]) / scale[:, None, None, None]
    key, stored = jax.random.key(2), {"source": pixels, "target": pixels}
    expected = augment(key, {"source": normal, "target": normal}, config, patch)
    found = augment(key, stored, config, patch, normalization=dict.fromkeys(stored, (location, scale)))
    for name in stored:
        assert found[name].dtype == np.float32
        spread = np.std(expected[name], axis=(1, 2, 3), keepdims=True)
        np.testing.assert_allclose(found[name] / spread, expected[name] / spread, atol=1e-5)
