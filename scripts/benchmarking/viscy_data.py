"""VisCy's data module of a plate, normalised as the config's roles say, with the transforms of its example configs."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarking import viscy_networks  # noqa: F401

from viscy.data.hcs import HCSDataModule  # isort: skip
from viscy import transforms  # isort: skip

NAMES = {"mean_std": ("mean", "std"), "median_iqr": ("median", "iqr")}
WIDER = 2  # times the patch, in Y and X: what is cropped before an affine transform (examples/configs/fit_example.yml)


def data_module(request: Mapping[str, Any], augmentations: Sequence[Any]) -> HCSDataModule:
    """Of `request["plate"]`, with `batch` samples and `workers` processes."""
    family, roles = request["family"], request["settings"]["roles"]
    depth, *plane = family["patch"]
    normalizations = []
    for role in roles.values():
        subtrahend, divisor = NAMES[role["normalization"]["statistic"]]
        level = f"{role['normalization']['scope']}_statistics"
        normalizations.append(transforms.NormalizeSampled(role["channels"], level, subtrahend, divisor))
    return HCSDataModule(
        data_path=request["plate"],
        source_channel=roles["source"]["channels"],
        target_channel=roles["target"]["channels"],
        z_window_size=depth,
        batch_size=request["batch"],
        num_workers=request["workers"],
        target_2d=request["settings"]["out_depth"] < depth or depth == 1,
        yx_patch_size=tuple(plane),
        normalizations=normalizations[:1] if request.get("predicts") else normalizations,
        augmentations=list(augmentations),
    )


def crops(request: Mapping[str, Any], size: Sequence[int]) -> Any:
    """Crops of a stack, drawn in proportion to the first target."""
    roles = request["settings"]["roles"]
    source, target = roles["source"]["channels"], roles["target"]["channels"]
    keys = [*source, *target]
    return transforms.RandWeightedCropd(keys, target[0], [-1, *size], num_samples=request["crops_per_stack"])


def standard_augmentations(request: Mapping[str, Any]) -> list[Any]:
    """The transforms of VisCy's example, with the ranges of vsjax's config (`AugmentConfig`)."""
    roles, augment = request["settings"]["roles"], request["settings"]["augment"]
    source, target = roles["source"]["channels"], roles["target"]["channels"]
    plane = request["family"]["patch"][1:]
    scale_xy, shear, sigma = augment["scale_range_xy"], augment["shear_range"], augment["blur_sigma_range"]
    return [
        crops(request, [WIDER * size for size in plane]),
        transforms.RandAffined(
            [*source, *target],
            prob=augment["rotation_probability"],
            rotate_range=[augment["rotation_range"], 0.0, 0.0],
            shear_range=[0.0, shear, shear],
            scale_range=[augment["scale_range_z"], scale_xy, scale_xy],
        ),
        transforms.RandAdjustContrastd(source, prob=augment["gamma_probability"], gamma=augment["gamma_range"]),
        transforms.RandScaleIntensityd(
            source, factors=augment["intensity_scale_range"], prob=augment["intensity_scale_probability"]
        ),
        transforms.RandGaussianNoised(
            source, prob=augment["noise_probability"], mean=0.0, std=augment["noise_std_range"][1]
        ),
        transforms.RandGaussianSmoothd(
            source, prob=augment["blur_probability"], sigma_x=sigma, sigma_y=sigma, sigma_z=[0.0, 0.0]
        ),
    ]
