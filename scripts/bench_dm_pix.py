"""dm_pix against vsjax's own image operations: the same numbers, in the same time? One table.

    python -m scripts.bench_dm_pix

Each line is one of dm_pix's functions in place of ours, on z-scored images and on camera counts (offset 30,000,
contrast of 100), in a batch of large patches and in one of small ones: the largest difference relative to ours, and the
median time of theirs over ours, forward and with the gradient where a loss takes it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import avg_pool

from vsjax import losses, metrics
from vsjax.data.intensity_augmentation import blur

REPEATS = 25
SHAPES = ((8, 5, 256, 256, 2), (8, 5, 16, 16, 2))
SIGMA, LARGEST_SIGMA = 0.7, 0.75


@dataclass(frozen=True)
class Pair:
    """Ours and theirs: functions of the same arrays with the same result."""

    name: str
    ours: Callable[..., jax.Array]
    theirs: Callable[..., jax.Array]
    arrays: int = 2
    gradient: bool = False


def main() -> None:
    """Print the table."""
    print(f"{'':24s} {'images':10s} {'shape':20s} {'difference':>11s} {'time':>6s} {'gradient':>9s}")
    for shape in SHAPES:
        for kind, images in image_pairs(shape):
            for pair in PAIRS:
                arrays = images[: pair.arrays]
                ours, theirs = jax.jit(pair.ours), jax.jit(pair.theirs)
                difference = largest_difference(ours(*arrays), theirs(*arrays))
                ratio = f"{ratio_of_times(ours, theirs, arrays):6.2f}"
                slope = ""
                if pair.gradient:
                    slopes = (jax.jit(jax.grad(lambda *a, f=f: f(*a).sum())) for f in (pair.ours, pair.theirs))
                    slope = f"{ratio_of_times(*slopes, arrays):9.2f}"
                print(f"{pair.name:24s} {kind:10s} {shape!s:20s} {difference:11.1e} {ratio} {slope}", flush=True)


def image_pairs(shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[jax.Array, jax.Array]]]:
    """A prediction and a target."""
    random = np.random.default_rng(0)
    target = random.normal(size=shape).astype(np.float32)
    prediction = (0.8 * target + 0.2 * random.normal(size=shape)).astype(np.float32)
    yield "z-scored", (jnp.asarray(prediction), jnp.asarray(target))
    yield "counts", (jnp.asarray(30_000 + 100 * prediction), jnp.asarray(30_000 + 100 * target))


def largest_difference(ours: jax.Array, theirs: jax.Array) -> float:
    """Largest absolute difference over the largest value of ours."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def ratio_of_times(ours: Callable[..., Any], theirs: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> float:
    """Median time of theirs over that of ours, the calls in turn."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(REPEATS + 1):  # the first compiles
        for which, function in enumerate((ours, theirs)):
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            times[which].append(time.perf_counter() - start)
    return float(np.median(times[1][1:]) / np.median(times[0][1:]))


def per_sample(function: Callable[..., jax.Array], prediction: jax.Array, target: jax.Array) -> jax.Array:
    """One of dm_pix's metrics `[B]` of whole stacks, the channels beside the pixels of a row."""
    return function(*(x.reshape(*x.shape[:3], -1) for x in (prediction, target)))


def per_channel(function: Callable[..., jax.Array], prediction: jax.Array, target: jax.Array) -> jax.Array:
    """One of dm_pix's metrics `[B, C]` of whole stacks: Z, Y, X in the place of its Y, X, C."""
    return jax.vmap(function, in_axes=-1, out_axes=-1)(prediction, target)


def psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """dm_pix's PSNR `[B, C]`, which takes the range to be 1."""
    span = jnp.max(target, axis=(1, 2, 3), keepdims=True) - jnp.min(target, axis=(1, 2, 3), keepdims=True)
    return per_channel(dm_pix.psnr, prediction / span, target / span)


def ssim(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """dm_pix's SSIM of every slice and channel, with our data range: `[B, C]`."""
    span = jnp.max(target, axis=(1, 2, 3)) - jnp.min(target, axis=(1, 2, 3))

    def one(p: jax.Array, t: jax.Array, span: jax.Array) -> jax.Array:
        return dm_pix.ssim(p[..., None], t[..., None], max_val=span).mean()

    return jax.vmap(jax.vmap(one, (-1, -1, -1)))(prediction, target, span)


def ssim_25d(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """dm_pix's SSIM with the window of the 2.5-D loss: `[B]`."""

    def window(stack: jax.Array) -> jax.Array:
        return avg_pool(stack.mean(axis=0, keepdims=True), (losses.WINDOW,) * 2, padding="VALID")

    def one(p: jax.Array, t: jax.Array, span: jax.Array) -> jax.Array:
        return dm_pix.ssim(p, t, max_val=span, filter_fn=window)[0]

    return jax.vmap(one, (0, 0, None))(prediction, target, jnp.max(target))


def blurred(image: jax.Array) -> jax.Array:
    """dm_pix's blur with the edges repeated: `[B, Z, Y, X, C]`. It has one sigma for both axes."""
    radius = int(4 * LARGEST_SIGMA + 0.5)
    flat = image.reshape(-1, *image.shape[2:])
    padded = jnp.pad(flat, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    return dm_pix.gaussian_blur(padded, SIGMA, 2 * radius, padding="VALID").reshape(image.shape)


VOLUME = (1, 2, 3)
PAIRS = (  # where vsjax itself uses dm_pix, "ours" is written out
    Pair("losses.l1", lambda p, t: jnp.abs(p - t).mean((*VOLUME, 4)), partial(per_sample, dm_pix.mae), gradient=True),
    Pair("losses.l2", lambda p, t: ((p - t) ** 2).mean((*VOLUME, 4)), partial(per_sample, dm_pix.mse), gradient=True),
    Pair("losses.ssim_25d", losses.ssim_25d, ssim_25d, gradient=True),
    Pair("metrics.mae", lambda p, t: jnp.abs(p - t).mean(VOLUME), partial(per_channel, dm_pix.mae)),
    Pair("metrics.mse", lambda p, t: ((p - t) ** 2).mean(VOLUME), partial(per_channel, dm_pix.mse)),
    Pair("metrics.psnr", metrics.psnr, psnr),
    Pair("metrics.ssim", metrics.ssim, ssim),
    Pair("blur", jax.vmap(lambda x: blur(x, jnp.full(2, SIGMA), LARGEST_SIGMA)), blurred, arrays=1),
    Pair("flip in Y", lambda x: x[:, :, ::-1], dm_pix.flip_up_down, arrays=1),
    Pair("flip in X", lambda x: x[:, :, :, ::-1], dm_pix.flip_left_right, arrays=1),
    Pair("a quarter turn", lambda x: jnp.swapaxes(x, 2, 3)[:, :, ::-1], dm_pix.rot90, arrays=1),
)


if __name__ == "__main__":
    main()
