"""Diffusion: the schedule of noise, the process, the samplers, their guidance, and neural spectral clustering. Arrays
in, arrays out: a denoiser is a function handed in, and so is what gives features, so that nothing here knows a network,
a task or a file, and the tasks and what is above them may import it. `vsjax/__init__.py` says what it may import."""
