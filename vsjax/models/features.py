"""What the stages of a network put out, and the features of single images that clustering and comparison need."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vsjax.errors import UserError, shorten
from vsjax.models.network import Network
from vsjax.models.vit import ViT

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue in 0..1
PERCENTILES = (1.0, 99.9)  # what a photograph's network sees as black and white

Scaling = tuple[Array, Array]  # location and scale


def image_features(
    network: Network, variables: Any, images: Array, stage: str = "", scaling: Scaling | None = None
) -> Array:
    """A grid of features of single-channel images, from any encoder. A pure function of arrays, to be jitted.

    Every channel and slice that the network sees is the image, scaled as the network's images were: for a ViT to 0..1
    and then as ImageNet's, for others to mean 0 and deviation 1.

    Args:
        network, variables: the encoder; whole networks and ViTs.
        images: `[B, Y, X]` in any units, Y and X multiples of the network's divisor.
        stage: the module whose output is taken, such as "encoder_1"; "" takes a ViT's keys of the last block and of
            others the last but one of the encoder's stages.
        scaling: what is subtracted from the images and what they are then divided by, `[B]` or numbers; None takes
            `image_scaling` of each image. The tiles of a field should share the field's.

    Returns:
        `[B, y, x, D]` float32, at the stage's own resolution; the mean over its slices where it has several.

    Raises:
        UserError: the network has no such stage, needs more than images, or the plane is not divisible.
    """
    _check_images(network, images)
    location, scale = (jnp.reshape(part, (-1, 1, 1)) for part in scaling or image_scaling(network, images))
    x = ((images - location) / scale)[:, None, :, :, None]
    x = jnp.broadcast_to(x, (len(images), network.in_stack_depth, *images.shape[1:], network.in_channels))
    if isinstance(network, ViT):
        x = (jnp.clip(x, 0, 1) - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
        if not stage:
            return network.apply(variables, x, method="features")
    stage = stage or network.feature_stage
    outputs, _ = stage_outputs(network, variables, x, [stage], "stage")
    found = outputs[stage][0] if isinstance(outputs[stage], tuple) else outputs[stage]
    if isinstance(network, ViT):
        found = network.on_grid(found, images.shape[1:])
    return (found.mean(axis=1) if found.ndim == 5 else found).astype(jnp.float32)


def image_scaling(network: Network, images: Array) -> Scaling:
    """How images `[B, Y, X]` are scaled for a network: location and scale, `[B]` each, of each image by itself.

    A ViT's become 0 at `PERCENTILES[0]` and 1 at `PERCENTILES[1]`; others get mean 0 and deviation 1. An image without
    contrast becomes constant.
    """
    if isinstance(network, ViT):
        low, high = jnp.percentile(images, jnp.asarray(PERCENTILES), axis=(1, 2))
        location, scale = low, high - low
    else:
        location, scale = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
    return location, jnp.where(scale > 0, scale, 1)


def stage_outputs(
    network: Network, variables: Any, x: Any, stages: Sequence[str], field: str = "--stages"
) -> tuple[dict[str, Any], Any]:
    """Apply a network once and keep what its stages put out.

    Args:
        network, variables: the network.
        x: `[B, Z, Y, X, C]`, normalised.
        stages: modules by their path, such as "encoder_0" or "decoder/stage_1"; any module with an output will do.
        field: what names the stages, for the message.

    Returns:
        The output of each stage, and the network's.

    Raises:
        UserError: the network has no such stage.
    """
    order: list[str] = []
    jax.eval_shape(lambda v, x: _apply(network, v, x, _note(order)), variables, x)
    for name in stages:
        if name not in order:
            raise UserError(
                f"{field} {shorten(name)}: the network has no such stage; its stages are {', '.join(network.stages)}"
            )
    output, captured = _apply(network, variables, x, lambda module, _: "/".join(module.path) in stages)
    outputs = {}
    for name in stages:
        node = captured["intermediates"]
        for part in name.split("/"):
            node = node[part]
        outputs[name] = node["__call__"][0]
    return outputs, output


def _check_images(network: Network, images: Array) -> None:
    if len(network.example(network.divisor[1:])) > 1:
        raise UserError(f"{type(network).__name__} gives no features of an image, since it needs more; take an encoder")
    if any(size % divisor for size, divisor in zip(images.shape[1:], network.divisor[1:], strict=True)):
        raise UserError(
            f"images of {tuple(images.shape[1:])} pixels are not divisible by {network.divisor[1:]}, the stride of "
            f"{type(network).__name__}; cut them to multiples of it"
        )


def _apply(network: Network, variables: Any, x: Any, keep: Callable[[nn.Module, str], bool]) -> Any:
    return network.apply(variables, x, train=False, capture_intermediates=keep, mutable=["intermediates"])


def _note(order: list[str]) -> Callable[[nn.Module, str], bool]:
    """A filter that keeps nothing and writes down the modules' paths as they are called."""

    def keep(module: nn.Module, method: str) -> bool:
        if method == "__call__" and module.path:
            order.append("/".join(module.path))
        return False

    return keep
