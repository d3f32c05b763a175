"""vsjax's side of `bench_data`: batches as training gets them, normalised, augmented and cropped on the device."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import jax

from scripts.benchmarking import measure
from scripts.benchmarking.device_vsjax import device_report
from scripts.benchmarking.experiment_vsjax import family_config, settings_of
from scripts.benchmarking.side import Work, serve
from vsjax.data.loading import open_data
from vsjax.runtime.keys import step_key
from vsjax.runtime.mesh import batch_rows, image_sharding, make_mesh, put_batch
from vsjax.tasks.registry import make_task

AHEAD = 2  # batches that are under way on the device, as in `vsjax.train`


def prepare(request: Mapping[str, Any]) -> Work:
    """Open the plate, compile, and read on."""
    config = family_config(request)
    mesh = make_mesh(config.mesh)
    task = make_task(config, image_sharding(mesh))
    data = open_data(config, task.inputs.out_depth, batch_rows(mesh, config.data.batch_size))
    batches = data.training(0)
    transform = jax.jit(lambda batch, step: task.inputs.training(step_key(config.seed, "train", step), batch))
    step = 0
    queued: deque[Any] = deque()

    def take(count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            queued.append(transform(put_batch(mesh, next(batches), config.data.batch_size), step))
            while len(queued) > AHEAD:
                jax.block_until_ready(queued.popleft())
        while queued:
            jax.block_until_ready(queued.popleft())

    def run() -> float:
        take(config.data.prefetch)  # those that were read while nobody waited
        return measure.seconds(lambda: take(request["batches"]))

    run()
    shapes = {name: list(image.shape) for name, image in transform(data.first_batch(), 0).items()}
    settings = settings_of(config, task.inputs.out_depth) | {"augment": config.augment.to_dict()}
    samples = request["batches"] * config.data.batch_size
    return Work(run, {"settings": settings, "samples": samples, "shapes": shapes}, device_report)


if __name__ == "__main__":
    serve(prepare)
