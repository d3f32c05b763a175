"""A diffusion that learns: on images that are mostly black it does not end at one grey level (Palette's issue 82)."""

import functools

import jax
import numpy as np
import pytest

from configs.common import base_config, channel_role
from vsjax.runtime.experiment import check_config
from vsjax.tasks.registry import make_task, resolve

STEPS, SIZE = 500, 32


def spots(samples, seed):
    """Stains of which 97 % are black, normalised as by their plate, and images in which the spots are dark rings."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    source, target = np.zeros((2, samples, 1, SIZE, SIZE, 1), np.float32)
    for image, stain in zip(source, target, strict=True):
        for _ in range(rng.integers(1, 4)):
            distance = np.hypot(*(axis - rng.uniform(4, SIZE - 4) for axis in (y, x)))
            stain[0, ..., 0] += distance < 2.2
            image[0, ..., 0] -= np.exp(-0.5 * (distance - 3.5) ** 2)
    source += 0.1 * rng.normal(size=source.shape)
    assert (target > 0).mean() < 0.04
    return {
        "source": source.astype(np.float32),
        "target": target,
        "source_location": np.full((samples, 1), source.mean()),
        "source_scale": np.full((samples, 1), source.std()),
        "target_location": np.full((samples, 1), target.mean()),
        "target_scale": np.full((samples, 1), target.std()),
    }


@pytest.mark.slow
def test_mostly_black_images_do_not_become_grey():
    config = base_config("palette", task="diffusion", inner_channels=16, channel_mults=(1, 2), res_blocks=1)
    config.roles.source, config.roles.target = channel_role("BF"), channel_role("stain")
    config.data.update(plates=("P.zarr",), patch=(1, SIZE, SIZE), batch_size=16)
    config.task.process.schedule.update(steps=1000, end=0.02)
    config.task.update(validation_steps=25)
    config.optim.update(learning_rate=2e-3, warmup_steps=20, average_decay=0.98)
    config.train.steps = STEPS
    task = make_task(resolve(check_config(config), 1, lambda: ((-1.0, 20.0),)))
    state = task.init(jax.random.key(0), spots(16, 0))
    step = jax.jit(functools.partial(task.step), donate_argnums=0)
    for number in range(STEPS):
        state, metrics = step(state, spots(16, number), jax.random.fold_in(jax.random.key(1), number))
    assert float(metrics["loss"]) < 0.3
    found = task.evaluate(state, spots(16, STEPS), jax.random.key(2))
    images = task.sample(state, spots(16, STEPS), jax.random.key(3))
    drawn, target = (np.asarray(images[name]) for name in ("prediction", "target"))
    print("Pearson", np.nanmean(found["pearson"]), "deviation", drawn.std() / target.std())
    assert np.nanmean(found["pearson"]) > 0.7
    assert 0.6 < drawn.std() / target.std() < 1.4
