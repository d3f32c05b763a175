"""Diffusion: the schedule of noise, the process, the samplers and their guidance. Arrays in, arrays out: a denoiser is
a function handed in, so that nothing here knows a network, a task or a file, and the tasks and what is above them may
import it. `vsjax/__init__.py` says what it may import."""
