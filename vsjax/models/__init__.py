"""Flax Linen modules and nothing else: no losses, no optimisers, no file access. Modules take and give channels-last
volumes `[B, Z, Y, X, C]`. It imports `vsjax.errors` and nothing else
of vsjax."""
