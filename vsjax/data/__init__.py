"""Everything between a plate on disk and a batch on the device: OME-NGFF metadata, TensorStore arrays, intensity
statistics, the patch index, the Grain pipeline and on-device augmentation. It may import `vsjax.errors` and nothing
else of vsjax."""
