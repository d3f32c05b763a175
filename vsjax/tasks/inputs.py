"""From a batch as it was read to what a task sees: normalised, augmented, cropped. Runs on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vsjax.data.augmentation import AugmentConfig, augment, center_crop
from vsjax.data.roles import ChannelRole, Role
from vsjax.intensity.normalization import normalize, patch_location_scale

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Inputs:
    """How batches become inputs, by role.

    Attributes:
        roles: what a batch holds.
        augment: the random transforms of training.
        patch: voxels (z, y, x) of the source, which the network sees.
        out_depth: slices of every other image that are kept, the middle ones.
        sharding: how images are spread over the devices once they are augmented; None leaves it open.
    """

    roles: Mapping[str, Role]
    augment: AugmentConfig
    patch: tuple[int, int, int]
    out_depth: int
    sharding: NamedSharding | None = None

    def training(self, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Every role, images `[B, Z, Y, X, C]` normalised and augmented with `key`; Z is `out_depth` but for the
        source."""
        images = self._images(batch)
        nearest = [name for name in images if self.roles[name].nearest]
        numbers = self._normalization(batch)
        images = augment(key, images, self.augment, self.patch, self._depths(images), nearest, numbers)
        return self._others(batch) | self._spread(images)

    def evaluation(self, batch: Batch) -> dict[str, jax.Array]:
        """Every role as in training, without augmentation."""
        images = self._images(batch)
        depths = self._depths(images)
        cropped = {name: center_crop(image, (depths[name], *image.shape[2:4])) for name, image in images.items()}
        cropped |= {name: normalize(cropped[name], *pair) for name, pair in self._normalization(batch).items()}
        return self._others(batch) | self._spread(cropped)

    def _depths(self, images: Mapping[str, jax.Array]) -> dict[str, int]:
        return {name: self.patch[0] if name == "source" else self.out_depth for name in images}

    def _others(self, batch: Batch) -> dict[str, jax.Array]:
        return {name: batch[name] for name, role in self.roles.items() if not role.spatial}

    def _spread(self, images: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """First whole images, then their parts: otherwise XLA spreads the augmentation too, which turns and shifts
        images and would send most of them from device to device."""
        if self.sharding is None:
            return images
        whole = NamedSharding(self.sharding.mesh, PartitionSpec(self.sharding.spec[0]))
        images = jax.lax.with_sharding_constraint(images, whole)
        return jax.lax.with_sharding_constraint(images, self.sharding)

    def _images(self, batch: Batch) -> dict[str, jax.Array]:
        """As they were read; labels stay so."""
        return {name: jnp.asarray(batch[name]) for name, role in self.roles.items() if role.spatial}

    def _normalization(self, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Location and scale `[B, C]` of the channels."""
        numbers = {}
        for name, role in self.roles.items():
            if isinstance(role, ChannelRole):
                numbers[name] = batch[f"{name}_location"], batch[f"{name}_scale"]
                if role.normalization.scope == "patch":
                    numbers[name] = patch_location_scale(batch[name], role.normalization.statistic)
        return numbers
