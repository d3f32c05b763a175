"""Schedules against the authors' numbers and against their definitions."""

import numpy as np
import pytest

from vsjax.diffusion.process import check_process
from vsjax.diffusion.schedule import ScheduleSettings, gammas
from vsjax.errors import UserError

LINEAR = ScheduleSettings()
ZERO = ScheduleSettings(zero_terminal_snr=True)
COSINE = ScheduleSettings(kind="cosine")


def test_linear_is_that_of_the_authors(shared):
    golden = np.load(shared / "golden" / "palette_process_linear2000.npz")
    np.testing.assert_allclose(gammas(LINEAR), golden["gammas"], rtol=1e-5)


def test_cosine_follows_its_curve_up_to_the_limit_of_beta():
    left = gammas(ScheduleSettings(kind="cosine", steps=500))
    curve = [np.cos((t / 500 + 0.008) / 1.008 * np.pi / 2) ** 2 for t in range(501)]
    np.testing.assert_allclose(left[:-1], np.array(curve[1:-1]) / curve[0], rtol=1e-9)
    np.testing.assert_allclose(left[-1] / left[-2], 1 - 0.999, rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_zero_terminal_snr_ends_at_nothing_and_keeps_the_first_step(kind):
    before = gammas(ScheduleSettings(kind=kind, steps=100, end=0.05))
    after = gammas(ScheduleSettings(kind=kind, steps=100, end=0.05, zero_terminal_snr=True))
    assert after[-1] == 0
    np.testing.assert_allclose(after[0], before[0], rtol=1e-12)
    assert (np.diff(after) < 0).all()
    ratio = np.diff(np.sqrt(after)) / np.diff(np.sqrt(before))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)  # of one line: shifted and scaled, not bent


@pytest.mark.parametrize(
    ("schedule", "parameterization", "says"),
    [
        (LINEAR, "eps", None),
        (COSINE, "eps", None),
        (ZERO, "v", None),
        (ZERO, "x0", None),
        (ZERO, "eps", "parameterization: is eps"),
        (ScheduleSettings(steps=10_000), "eps", "parameterization: is eps"),
        (ScheduleSettings(steps=10_000), "v", None),
        (ScheduleSettings(steps=10_000, end=0.05), "v", "fewer steps"),
    ],
)
def test_a_parameterization_that_loses_the_image_is_refused(schedule, parameterization, says):
    if says is None:
        check_process(schedule, parameterization)
    else:
        with pytest.raises(UserError, match=says):
            check_process(schedule, parameterization)
