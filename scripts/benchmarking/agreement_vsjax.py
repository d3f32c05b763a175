"""Whether two plates hold the same prediction."""

import numpy as np

from vsjax.plates.reader import open_plate


def agreement(ours: str, theirs: str) -> dict[str, float]:
    """Largest difference between two plates and their correlation, over all positions; both hold the same channels."""
    largest, pairs = 0.0, []
    plates = open_plate(ours), open_plate(theirs)
    for name in plates[0].position_names:
        a, b = (np.asarray(plate[name].array()[...].read().result(), np.float64) for plate in plates)
        largest = max(largest, float(np.abs(a - b).max()))
        pairs.append((a.ravel(), b.ravel()))
    first, second = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return {
        "largest_difference": largest,
        "standard_deviation": float(first.std()),
        "correlation": float(np.corrcoef(first, second)[0, 1]),
    }
