"""What every experiment shares. A config is this, with the fields that the experiment changes."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vsjax.models.registry import model_settings
from vsjax.runtime.experiment import default_sections
from vsjax.tasks.registry import find_task


def base_config(model: str, task: str = "regression", **settings: Any) -> ConfigDict:
    """The fields that every experiment has, with UNeXt2's values where the paper gives one, for this model and task.
    What a field is and which values it takes: `vsjax/runtime/experiment.py`."""
    config = ConfigDict(default_sections())
    config.task = task_config(task)
    config.model = model_config(model, **settings)
    config.roles = ConfigDict({"source": channel_role("Phase")})
    return config


def task_config(name: str) -> ConfigDict:
    """A task with all its settings, so that each can be given on the command line."""
    return ConfigDict(find_task(name).Settings(name=name).model_dump())


def model_config(name: str, **settings: Any) -> ConfigDict:
    """A model with all its settings, so that each can be given on the command line. Channels and input depth follow
    from the data; an output depth left open is that of the input."""
    decided = ("in_channels", "out_channels", "in_stack_depth")
    defaults = {field: value for field, value in model_settings(name).items() if field not in decided}
    if "out_stack_depth" in defaults:
        defaults["out_stack_depth"] = placeholder(int)
    return ConfigDict({"name": name, **defaults, **settings})


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


def diffusion_config(**settings: Any) -> ConfigDict:
    """Palette's denoiser and process as DiffStain trains them (Han et al. 2025, section 3): 2000 linear steps, L1,
    batches of one; the moving average, of which its code predicts, is Palette's."""
    config = base_config("palette", task="diffusion", **settings)
    config.optim.update(learning_rate=5e-4, schedule="constant", warmup_steps=100, average_decay=0.9999)
    config.data.batch_size = 1
    return config


def cell_painting(config: ConfigDict) -> None:
    """The data of DiffStain (JUMP Cell Painting, cpg0000): three brightfield planes of 512 x 512 pixels to five
    stains."""
    config.roles.source = channel_role("LowZBF", "Brightfield", "HighZBF")
    config.roles.target = channel_role("RNA", "ER", "AGP", "Mito", "DNA")
    config.data.patch = (1, 512, 512)
    config.augment.update(rotation="right_angles", rotation_probability=1.0, flip_x_probability=0.5)
    config.train.update(steps=100_000, validate_every=5000, save_every=5000)


def small_cell_painting(config: ConfigDict) -> None:
    """The `debug` form of the same on a plate of `vsjax.simulate`: a stack to three stains, in a minute or two on two
    cores."""
    config.roles.source = channel_role("BF")
    config.roles.target = channel_role("nuclei", "membrane", "organelles")
    config.data.update(patch=(5, 64, 64), batch_size=2, val_patches=4)
    if "out_stack_depth" in config.model:
        config.model.out_stack_depth = 1
    config.train.update(steps=40, log_every=10, validate_every=20, save_every=20)
    config.optim.update(learning_rate=1e-3, warmup_steps=5)
    if config.task.name == "diffusion":
        config.model.update(inner_channels=32, channel_mults=(1, 2), res_blocks=1)
        config.optim.average_decay = 0.99
        config.task.process.schedule.update(steps=1000, end=0.02)
        config.task.sampler.clustering.tile = 64


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
