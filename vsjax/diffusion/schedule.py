"""What is left of the image at each step of the process: gamma, from nearly 1 at the first to nearly 0 at the last."""

from typing import Literal

import numpy as np
from pydantic import Field

from vsjax.schema import Document

COSINE_OFFSET = 0.008  # Nichol and Dhariwal 2021 (arXiv:2102.09672), section 3.2
LARGEST_BETA = 0.999  # of the cosine, whose last step would leave nothing; the same section


class ScheduleSettings(Document):
    """Variances of the noise that the steps of the process add."""

    kind: Literal["linear", "cosine"] = "linear"
    steps: int = Field(2000, ge=2, le=10_000, description="of the process, T")
    start: float = Field(1e-6, ge=1e-7, le=0.5, description="variance that the first step of a linear schedule adds")
    end: float = Field(0.01, ge=1e-7, le=0.999, description="variance that the last step of a linear schedule adds")
    zero_terminal_snr: bool = Field(
        False, description="the last step leaves nothing of the image, as where a prediction starts; not with eps"
    )


def gammas(settings: ScheduleSettings) -> np.ndarray:
    """Share of the image's variance left after each step: float64 `[T]`, falling.

    Linear betas as Ho et al. 2020 and Palette, or the cosine of Nichol and Dhariwal 2021; with `zero_terminal_snr` the
    square roots are shifted and scaled so that the last is 0 and the first stays (Lin et al. 2023, arXiv:2305.08891,
    algorithm 1). Near 1 float32 has few digits of 1 - gamma, so coefficients are computed from these.
    """
    if settings.kind == "linear":
        betas = np.linspace(settings.start, settings.end, settings.steps)
    else:
        angles = (np.arange(settings.steps + 1) / settings.steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2
        left = np.square(np.cos(angles))
        betas = np.minimum(1 - left[1:] / left[:-1], LARGEST_BETA)
    left = np.cumprod(1 - betas)
    if settings.zero_terminal_snr:
        root = np.sqrt(left)
        left = np.square((root - root[-1]) * root[0] / (root[0] - root[-1]))
    return left
