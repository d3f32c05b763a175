"""From a batch as it was read to what a model sees: normalised, augmented, cropped. Runs on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vsjax.data.augmentation import AugmentConfig, augment, center_crop
from vsjax.intensity.normalization import Normalization, normalize, patch_location_scale

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Inputs:
    """How batches become model inputs.

    Attributes:
        source, target: normalisation of each.
        augment: the random transforms of training.
        patch: voxels (z, y, x) of a model input.
        out_depth: slices of the target that are kept, the middle ones.
        sharding: how source and target are spread over the devices once they are augmented; None leaves it open.
    """

    source: Normalization
    target: Normalization
    augment: AugmentConfig
    patch: tuple[int, int, int]
    out_depth: int
    sharding: NamedSharding | None = None

    def training(self, key: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Source `[B, Z, Y, X, C]` and target `[B, out_depth, Y, X, C']`, augmented with `key`."""
        source, target = self._normalized(batch)
        return self._spread(*augment(key, source, target, self.augment, self.patch, self.out_depth))

    def evaluation(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Source and target as in training, without augmentation."""
        source, target = self._normalized(batch)
        return self._spread(source, center_crop(target, (self.out_depth, *target.shape[2:4])))

    def _spread(self, *images: jax.Array) -> tuple[jax.Array, ...]:
        """First whole images, then their parts: otherwise XLA spreads the augmentation too, which turns and shifts
        images and would send most of them from device to device."""
        if self.sharding is None:
            return images
        whole = NamedSharding(self.sharding.mesh, PartitionSpec(self.sharding.spec[0]))
        images = tuple(jax.lax.with_sharding_constraint(image, whole) for image in images)
        return tuple(jax.lax.with_sharding_constraint(image, self.sharding) for image in images)

    def _normalized(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        pair = []
        for role, normalization in (("source", self.source), ("target", self.target)):
            location, scale = batch[f"{role}_location"], batch[f"{role}_scale"]
            if normalization.level == "patch":
                location, scale = patch_location_scale(batch[role], normalization.statistic)
            pair.append(normalize(batch[role], location, scale))
        return pair[0], pair[1]
