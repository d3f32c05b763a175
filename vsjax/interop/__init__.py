"""Weights and formats of other software: VisCy, timm, safetensors. Files are parsed, never executed. It may import
`data.normalization`, `models` and `training.checkpoint`."""
