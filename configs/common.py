"""What every experiment shares. A config is this, with the fields that the experiment changes."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vsjax.data.augment_config import AugmentConfig
from vsjax.models.registry import model_settings


def base_config(model: str, **settings: Any) -> ConfigDict:
    """The fields that every experiment has, with UNeXt2's values where the paper gives one, for this model."""
    config = ConfigDict()
    config.seed = 0
    config.task = "regression"  # or "masked_pretraining", which needs no target and a model "fcmae"
    config.mask_ratio = 0.5  # of the cells that masked pre-training hides (paper, "Pre-training")
    config.dtype = (
        "float32"  # of the network's arithmetic; "bfloat16" on accelerators. Parameters and loss stay float32
    )
    config.model = model_config(model, **settings)
    config.init = ConfigDict(
        {
            "checkpoint": "",  # folder of a run or of converted weights to begin with; empty for random weights
            "which": "",  # "best" or "last"; empty for the best where the run validated
            "load": "all",  # parts that are taken: "encoder", "encoder+decoder" or "all"
            "freeze": "",  # parts that do not learn: "encoder", "encoder+decoder" or empty
        }
    )
    config.data = data_config()
    config.augment = ConfigDict(dataclasses.asdict(AugmentConfig()))  # every transform off
    config.loss = ConfigDict({"l1": 0.5, "l2": 0.0, "ms_dssim": 0.5, "scales": 5})
    config.optim = ConfigDict(
        {
            "learning_rate": 2e-4,
            "schedule": "cosine",  # or "constant"
            "warmup_steps": 100,
            "warmup_epochs": 0,  # used with train.epochs, in place of warmup_steps
            "warmup_from": 1e-3,  # of the learning rate
            "weight_decay": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 0.0,  # of the gradient's global norm; 0 is off
            "average_decay": 0.0,  # moving average of the parameters, used for validation and prediction; 0 is off
        }
    )
    config.train = ConfigDict(
        {
            "steps": 10_000,
            "epochs": 0,  # above 0 it decides the steps; an epoch sees as many patches as there are z windows
            "accumulate": 1,  # parts in which a batch is computed, one after the other, to save memory
            "log_every": 20,
            "validate_every": 500,
            "save_every": 500,
            "best": "loss",  # validation metric that decides the best checkpoint; "pearson" and "ssim" are maximised
        }
    )
    config.predict = ConfigDict(
        {"tta": "none"}
    )  # test-time augmentation by default: "mean" or "median" of four rotations
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "space": 1})  # devices on each axis; -1 takes what is left
    return config


def model_config(name: str, **settings: Any) -> ConfigDict:
    """A model with all its settings, so that each can be given on the command line. Channels and input depth follow
    from the data; an output depth left open is that of the input."""
    decided = ("in_channels", "out_channels", "in_stack_depth")
    defaults = {field: value for field, value in model_settings(name).items() if field not in decided}
    if "out_stack_depth" in defaults:
        defaults["out_stack_depth"] = placeholder(int)
    return ConfigDict({"name": name, **defaults, **settings})


def data_config() -> ConfigDict:
    """Plates, channels, patches and how they are normalised."""
    data = ConfigDict()
    data.plates = ()  # paths or URLs of OME-Zarr plates; repeat the flag for several
    data.weights = ()  # share of each plate in a batch; equal where empty
    data.source = ("Phase",)
    data.target = ("nuclei",)  # () for masked pre-training
    data.train_fovs = ()  # `A/4/0`, or a well `A/4`; empty for all that do not validate
    data.val_fovs = ()
    data.val_fraction = 0.2  # of each plate's FOVs, drawn by the seed, where no FOV is named
    data.patch = (5, 256, 256)  # voxels (z, y, x) that the network sees
    data.val_patch = ()  # the same for validation; empty for `patch`
    data.val_patches = 64  # at most
    data.batch_size = 8
    data.importance_channel = ""  # crops are drawn in proportion to this channel's intensity; uniformly where empty
    data.source_normalization = ConfigDict({"level": "fov", "statistic": "mean_std"})
    data.target_normalization = ConfigDict({"level": "fov", "statistic": "median_iqr"})
    data.read_threads = 4
    data.prefetch = 4
    return data


def paper_augmentation(scale_xy: float = 0.3, flips: bool = False) -> dict[str, Any]:
    """The published augmentation of UNeXt2 (paper, "Model training"; ranges from VisCy's recipes)."""
    return {
        "rotation_probability": 0.8,
        "scale_probability": 0.8,
        "scale_range_xy": scale_xy,
        "scale_range_z": 0.2,
        "shear_probability": 0.8,
        "shear_range": 0.05,
        "flip_y_probability": 0.5 * flips,
        "flip_x_probability": 0.5 * flips,
        "gamma_probability": 0.5,
        "gamma_range": (0.8, 1.2),
        "intensity_scale_probability": 0.5,
        "intensity_scale_range": 0.5,
        "noise_probability": 0.5,
        "noise_std_range": (0.0, 0.3),
        "blur_probability": 0.5,
        "blur_sigma_range": (0.25, 0.75),
    }


def small_data_augmentation(intensity_scale: float) -> dict[str, Any]:
    """For a handful of fields of view: right angles and flips use every pixel up to the border, which free
    rotation, reading larger crops, would keep out of training; intensity changes are small, since contrast informs."""
    return {
        "rotation": "right_angles",
        "rotation_probability": 1.0,
        "flip_x_probability": 0.5,
        "gamma_probability": 0.5,
        "intensity_scale_probability": 0.5,
        "intensity_scale_range": intensity_scale,
        "blur_probability": 0.5,
        "noise_probability": 0.5,
    }


def shrink(config: ConfigDict, patch: tuple[int, int, int]) -> None:
    """The `debug` form of a recipe, beside a smaller network: a minute on two cores, on a plate of `vsjax.simulate`.
    The augmentation stays; it reads crops of up to 2.3 times the patch."""
    config.dtype = "float32"
    config.data.source = ("BF",)
    config.data.patch = patch
    config.data.batch_size = 2
    config.loss.scales = 2
    config.optim.update(warmup_steps=2, warmup_epochs=0)
    config.train.update(steps=20, epochs=0, log_every=5, validate_every=10, save_every=10)
