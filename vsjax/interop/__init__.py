"""Weights and formats of other software: VisCy, timm, safetensors. Files are parsed, never executed.
`vsjax/__init__.py` says what it may import."""
