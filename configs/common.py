"""What every experiment shares. A config is this, with the fields that the experiment changes."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vsjax.data.augment_config import AugmentConfig
from vsjax.models.registry import model_settings
from vsjax.tasks.registry import find_task


def base_config(model: str, task: str = "regression", **settings: Any) -> ConfigDict:
    """The fields that every experiment has, with UNeXt2's values where the paper gives one, for this model and task."""
    config = ConfigDict()
    config.seed = 0
    config.task = task_config(task)
    # of the network's arithmetic; "bfloat16" on accelerators. Parameters and loss stay float32
    config.dtype = "float32"
    config.model = model_config(model, **settings)
    config.init = ConfigDict(
        {
            "checkpoint": "",  # folder of a run or of converted weights to begin with; empty for random weights
            "which": "",  # "best" or "last"; empty for the best where the run validated
            "load": "all",  # parts that are taken: "encoder", "encoder+decoder" or "all"
            "freeze": "",  # parts that do not learn: "encoder", "encoder+decoder" or empty
        }
    )
    config.roles = ConfigDict({"source": channel_role("Phase")})
    config.data = data_config()
    config.augment = ConfigDict(dataclasses.asdict(AugmentConfig()))  # every transform off
    config.optim = optimizer_config()
    config.train = ConfigDict(
        {
            "steps": 10_000,
            "epochs": 0,  # above 0 it decides the steps; an epoch sees as many patches as there are z windows
            "accumulate": 1,  # parts in which a batch is computed, one after the other, to save memory
            "log_every": 20,
            "validate_every": 500,
            "save_every": 500,
            "best": "loss",  # validation metric that decides the best checkpoint, such as "pearson/nuclei"
            "patience": 0,  # validations without a better one after which the run ends; 0 never ends it early
        }
    )
    # test-time augmentation where prediction names none: "none", or "mean" or "median" of four rotations
    config.predict = ConfigDict({"tta": "none"})
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "space": 1})  # devices on each axis; -1 takes what is left
    return config


def task_config(name: str) -> ConfigDict:
    """A task with all its settings, so that each can be given on the command line."""
    return ConfigDict({"name": name, **dataclasses.asdict(find_task(name).Settings())})


def model_config(name: str, **settings: Any) -> ConfigDict:
    """A model with all its settings, so that each can be given on the command line. Channels and input depth follow
    from the data; an output depth left open is that of the input."""
    decided = ("in_channels", "out_channels", "in_stack_depth")
    defaults = {field: value for field, value in model_settings(name).items() if field not in decided}
    if "out_stack_depth" in defaults:
        defaults["out_stack_depth"] = placeholder(int)
    return ConfigDict({"name": name, **defaults, **settings})


def optimizer_config() -> ConfigDict:
    """One optimiser; a task with several networks has a section like it for each."""
    return ConfigDict(
        {
            "learning_rate": 2e-4,
            "part_rates": {"encoder": 1.0, "decoder": 1.0, "head": 1.0},  # times the learning rate
            "schedule": "cosine",  # to zero; or "linear", to zero from `decay_start` on, or "constant"
            "decay_start": 0.5,  # of the run's steps
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


def channel_role(*channels: str, scope: str = "fov", statistic: str = "mean_std") -> ConfigDict:
    """Channels, normalised by `statistic` ("mean_std" or "median_iqr") over `scope` ("dataset", "fov", "timepoint",
    "patch", or "none" for raw intensities)."""
    return ConfigDict({"channels": channels, "normalization": {"scope": scope, "statistic": statistic}})


def label_role(*labels: str) -> ConfigDict:
    """NGFF label images; ids stay as they are."""
    return ConfigDict({"labels": labels})


def metadata_role(key: str, *classes: str) -> ConfigDict:
    """A class: the value of an attribute of the image, its well or the plate (or "well", "row", "column")."""
    return ConfigDict({"metadata": key, "classes": classes})


def data_config() -> ConfigDict:
    """Plates, patches, and where they are taken."""
    data = ConfigDict()
    data.plates = ()  # paths or URLs of OME-Zarr plates; repeat the flag for several
    data.weights = ()  # share of each plate in a batch; equal where empty
    data.train_fovs = ()  # `A/4/0`, or a well `A/4`; empty for all that do not validate
    data.val_fovs = ()
    data.val_fraction = 0.2  # of each plate's FOVs, drawn by the seed, where no FOV is named
    data.patch = (5, 256, 256)  # voxels (z, y, x) that the network sees
    data.val_patch = ()  # the same for validation; empty for `patch`
    data.val_patches = 64  # at most
    data.batch_size = 8
    data.importance_channel = ""  # crops are drawn in proportion to this channel's intensity; uniformly where empty
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
    config.roles.source.channels = ("BF",)
    config.data.patch = patch
    config.data.batch_size = 2
    if "loss" in config.task:
        config.task.loss.scales = 2
    config.optim.update(warmup_steps=2, warmup_epochs=0)
    config.train.update(steps=20, epochs=0, log_every=5, validate_every=10, save_every=10)
