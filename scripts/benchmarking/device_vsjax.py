"""What JAX says of the device."""

from typing import Any

import jax


def device_report() -> dict[str, Any]:
    """Its name, and the most of its own memory that was in use; None where it has none."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use")}
