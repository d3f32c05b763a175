"""Where the features come from by which images are clustered: a checkpoint's encoder or plain patches; and the record
of it, without which masks mean little."""

from dataclasses import dataclass
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from vsjax.diffusion.patch_features import STRIDE, intensity_features
from vsjax.errors import UserError
from vsjax.inference.compiled import fingerprint
from vsjax.models.features import image_features, image_scaling
from vsjax.models.network import Network
from vsjax.models.registry import network_of
from vsjax.runtime.checkpoint import Checkpoint, load_checkpoint
from vsjax.schema import Document

INTENSITY = "intensity"  # the source that has no weights; a folder of this name is ./intensity


class FeatureRecord(Document):
    """Which features; of those without weights only the name."""

    name: str = Field(description=f"of the network, or {INTENSITY!r}")
    stage: str = Field(default="", description="whose output they are; empty is the network's own choice")
    path: str = Field(default="", description="of the checkpoint")
    step: int | None = Field(default=None, description="of its training")
    fingerprint: str = Field(default="", description="of its weights")


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """Features of single-channel images; pure functions of arrays.

    Attributes:
        record: which these are.
        variables: of the network; what `features` is called with.
        network: None for plain patches.
    """

    record: FeatureRecord
    variables: Any = None
    network: Network | None = None

    def scale(self, images: Array) -> Array:
        """Images `[B, Y, X]` in any units in those that `features` expects: whole fields, so that their tiles agree."""
        if self.network is None:
            location, scale = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
        else:
            location, scale = image_scaling(self.network, images)
        return (images - location[:, None, None]) / jnp.where(scale > 0, scale, 1)[:, None, None]

    def features(self, variables: Any, tiles: Array) -> Array:
        """`[N, Y, X]` -> `[N, h, w, D]`, as fine as the stage is."""
        if self.network is None:
            return intensity_features(tiles)
        return image_features(self.network, variables, tiles, self.record.stage, scaling=(jnp.zeros(1), jnp.ones(1)))

    def check(self, tile: int) -> None:
        """Raise a UserError where tiles of so many pixels give no features to cluster; computes nothing."""
        if self.network is None and tile % STRIDE:
            raise UserError(f"--tile: is {tile}; with --features {INTENSITY} it must be a multiple of {STRIDE}")
        plane = jax.ShapeDtypeStruct((1, tile, tile), jnp.float32)
        try:
            found = jax.eval_shape(self.features, self.variables, plane)
        except UserError as error:
            raise UserError(f"--features {self.record.path}, --tile {tile}: {error}") from error
        if found.ndim != 4:
            raise UserError(
                f"--features {self.record.path}, --stage {self.record.stage}: gives no plane of features but an array "
                f"of {found.ndim} axes; take an encoder's stage"
            )


def load_features(source: str, stage: str = "") -> FeatureSource:
    """The features of a run, of converted weights (DINO's too), or, of the name `INTENSITY`, of plain patches.

    Raises:
        UserError: there is no checkpoint, its network has no encoder, or the weights are not those of it.
    """
    if source == INTENSITY:
        if stage:
            raise UserError(
                f"--stage {stage}: --features {INTENSITY} has no stages; leave it out, or name a checkpoint"
            )
        return FeatureSource(FeatureRecord(name=INTENSITY))
    checkpoint = load_checkpoint(source)
    try:
        network = network_of({**checkpoint.description.config, "dtype": "float32"})
    except (KeyError, UserError) as error:
        raise UserError(f"{checkpoint.path}: {error}; take an encoder's checkpoint") from error
    name = checkpoint.description.config["model"]["name"]
    if not network.parts.get("encoder"):
        raise UserError(f"{checkpoint.path}: {name} has no encoder; take a checkpoint of another network")
    record = FeatureRecord(
        name=name,
        stage=stage,
        path=checkpoint.path,
        step=checkpoint.description.step,
        fingerprint=fingerprint(checkpoint),
    )
    return FeatureSource(record, complete(network, checkpoint), network)


def complete(network: Network, checkpoint: Checkpoint) -> Any:
    """The variables with zeros for parts that a checkpoint of an encoder lacks, whose output nothing sees. UserError
    where one of the encoder's is missing or of another shape."""
    image = network.example(network.divisor[1:])
    wanted = flax.traverse_util.flatten_dict(
        jax.eval_shape(lambda key, *volume: network.init(key, *volume), jax.random.key(0), *image)
    )
    found = flax.traverse_util.flatten_dict(flax.core.unfreeze(checkpoint.variables))
    encoder = network.parts["encoder"]
    for path, leaf in wanted.items():
        stored = tuple(found[path].shape) if path in found else "nothing"
        if stored != leaf.shape and (path in found or path[1] in encoder):
            raise UserError(
                f"{checkpoint.path}: {'/'.join(path)} is {stored} where {leaf.shape} is expected; use the checkpoint's "
                "own configuration or train again"
            )
    whole = {path: found[path] if path in found else jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in wanted.items()}
    return jax.device_put(flax.traverse_util.unflatten_dict(whole))
