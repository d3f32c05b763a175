"""The version that every checkpoint and every written plate records."""

__version__ = "0.1.0"
