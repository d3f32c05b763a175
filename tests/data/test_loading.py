"""How long an epoch is, and that it decides the schedule."""

import pytest

from configs import unext2
from vsjax.data.loading import open_data


@pytest.mark.parametrize(("depth", "batch", "expected"), [(5, 2, 1), (5, 1, 2), (1, 3, 4), (1, 100, 1)])
def test_an_epoch_sees_as_many_patches_as_there_are_windows(simulated_plate, depth, batch, expected):
    """Two training FOVs of five slices have two windows of five slices, or ten of one."""
    config = unext2.get_config("debug")
    config.data.update(plates=(str(simulated_plate),), val_fovs=("A/1/0",), patch=(depth, 32, 32), batch_size=batch)
    config.augment.update(rotation="right_angles", scale_probability=0.0, shear_probability=0.0)
    assert open_data(config, depth).steps_per_epoch() == expected
