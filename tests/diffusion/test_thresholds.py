"""Local thresholds against scikit-image's."""

import numpy as np
import pytest
from skimage.filters import threshold_local

from vsjax.diffusion.thresholds import ThresholdSettings, local_mean, threshold_mask


@pytest.mark.parametrize(("window", "weights"), [(3, "mean"), (21, "mean"), (7, "gaussian"), (51, "gaussian")])
def test_the_local_mean_is_scikit_images(window, weights):
    images = np.random.default_rng(0).normal(size=(2, 40, 33)).astype(np.float32)
    expected = [threshold_local(image, window, method=weights) for image in images]
    np.testing.assert_allclose(local_mean(images, window, weights), expected, atol=1e-5)


def test_the_mask_is_above_mean_and_offset():
    image = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    expected = image > threshold_local(image, 31, method="gaussian", offset=-0.5)  # theirs is subtracted
    np.testing.assert_array_equal(threshold_mask(image, ThresholdSettings(window=31, offset=0.5)), expected)
