"""Flax Linen modules and nothing else: no losses, no optimisers, no file access. They take and give channels-last
volumes `[B, Z, Y, X, C]`; `network.Network` says what the others ask of them. `vsjax/__init__.py` says what it may
import."""
