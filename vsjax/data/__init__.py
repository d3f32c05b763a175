"""From plates to batches: fields of view (FOVs), where crops are taken, roles, the Grain pipeline, and augmentation
on the device. `vsjax/__init__.py` says what it may import."""
