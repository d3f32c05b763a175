"""The published recipes: their numbers are the papers', their small forms train, and one begins where another ended.

Parameter counts were taken from VisCy's networks, hyper-parameters from the papers' methods; both are typed here, not
imported."""

import importlib
import math
import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.experimental.compilation_cache import compilation_cache

from vsjax.data.augment_config import AugmentConfig
from vsjax.data.augmentation import oversized_patch
from vsjax.runtime.checkpoint import load_checkpoint
from vsjax.schema import read_section
from vsjax.tasks.registry import make_task, resolve
from vsjax.training.loop import train

FOV_PHASE = {"roles.source.normalization.scope": "fov", "roles.source.normalization.statistic": "mean_std"}
FOV_ROBUST = {"roles.source.normalization.scope": "fov", "roles.source.normalization.statistic": "median_iqr"}
FOV_STAINS = {"roles.target.normalization.scope": "fov", "roles.target.normalization.statistic": "median_iqr"}
DATASET = {
    f"roles.{role}.normalization.{field}": value
    for role in ("source", "target")
    for field, value in (("scope", "dataset"), ("statistic", "median_iqr"))
}
MIXED = {"task.loss.l1": 0.5, "task.loss.l2": 0.0, "task.loss.ms_dssim": 0.5, "task.loss.scales": 5}
WARM_COSINE = {"optim.schedule": "cosine", "optim.warmup_epochs": 3, "optim.weight_decay": 0.01}
STAINS = {"roles.source.channels": ("Phase",), "roles.target.channels": ("nuclei", "membrane")}
FLIPS = {"augment.flip_y_probability": 0.5, "augment.flip_x_probability": 0.5}
NO_FLIPS = {"augment.flip_y_probability": 0.0, "augment.flip_x_probability": 0.0, "augment.flip_z_probability": 0.0}
AUGMENTED = {
    "augment.rotation": "any",
    "augment.rotation_range": math.pi,
    "augment.scale_range_z": 0.2,
    "augment.shear_range": 0.05,
    "augment.gamma_range": (0.8, 1.2),
    "augment.intensity_scale_range": 0.5,
    "augment.blur_sigma_range": (0.25, 0.75),
}
NEUROMAST = FOV_ROBUST | MIXED | WARM_COSINE | NO_FLIPS | AUGMENTED | {"model.backbone": "convnextv2_tiny"}


def recipe(patch, batch, rate, epochs, *groups):
    """The fields that a paper states, under their names in a config."""
    fields = {"data.patch": patch, "data.batch_size": batch, "optim.learning_rate": rate, "train.epochs": epochs}
    for group in groups:
        fields |= group
    return fields


TINY = {"model.encoder_blocks": (3, 3, 9, 3), "model.dims": (96, 192, 384, 768), "model.stem_kernel_size": (1, 2, 2)}
PAPER = {
    "vscyto3d": recipe(
        (5, 384, 384), 32, 2e-4, 100, STAINS, DATASET, MIXED, WARM_COSINE, NO_FLIPS, AUGMENTED,
        {"model.backbone": "convnextv2_tiny", "model.stem_kernel_size": (5, 4, 4), "model.head_pool": True},
        {"model.decoder_conv_blocks": 2},
    ),
    "vscyto2d_pretrain": recipe(
        (1, 256, 256), 32, 2e-4, 800, FOV_PHASE, WARM_COSINE, FLIPS, AUGMENTED, TINY,
        {"task.name": "masked_pretraining", "task.mask_ratio": 0.5, "roles.source.channels": ("Phase",)},
        {"dtype": "bfloat16", "model.decoder_conv_blocks": 1},
    ),
    "vscyto2d": recipe(
        (1, 256, 256), 32, 2e-4, 400, STAINS, FOV_PHASE, FOV_STAINS, MIXED, WARM_COSINE, FLIPS, AUGMENTED, TINY,
        {"dtype": "bfloat16", "model.decoder_conv_blocks": 2, "init.load": "encoder", "data.weights": ()},
    ),
    "vscyto2d_finetune": recipe(
        (1, 256, 256), 32, 2e-4, 6400, STAINS, FOV_PHASE, FOV_STAINS, MIXED, FLIPS, AUGMENTED, TINY,
        {"dtype": "bfloat16", "model.decoder_conv_blocks": 2, "init.load": "all", "init.freeze": ""},
        {"optim.schedule": "constant", "optim.warmup_epochs": 0},
    ),
    "vsneuromast_15": recipe((15, 384, 384), 24, 2e-3, 150, STAINS, NEUROMAST),
    "vsneuromast": recipe(
        (21, 384, 384), 24, 2e-3, 30, STAINS, NEUROMAST, {"model.stem_kernel_size": (7, 4, 4), "init.load": "all"}
    ),
    "vsneuromast_finetune": recipe(
        (21, 384, 384), 6, 2e-4, 45, NEUROMAST,
        {"roles.target.channels": ("nuclei_clahe", "membrane_clahe"), "data.importance_channel": "nuclei_clahe"},
        {"model.stem_kernel_size": (7, 4, 4), "init.load": "all"},
    ),
    "unet25d": recipe(
        (5, 512, 512), 32, 2e-4, 100, STAINS, DATASET, MIXED, WARM_COSINE, AUGMENTED,
        {"model.residual": True, "model.out_stack_depth": 1, "model.num_blocks": 4},
    ),
    "unet2d": recipe((1, 512, 512), 32, 2e-4, 100, STAINS, DATASET, MIXED, WARM_COSINE, AUGMENTED),
    "fnet3d": recipe(
        (32, 64, 64), 24, 1e-3, 0,
        {"train.steps": 50_000, "optim.schedule": "constant", "optim.warmup_steps": 0, "optim.weight_decay": 0.0},
        {"optim.b1": 0.5, "optim.b2": 0.999, "task.loss.l1": 0.0, "task.loss.l2": 1.0, "task.loss.ms_dssim": 0.0},
        {"model.depth": 4, "model.mult_chan": 32, "roles.target.channels": ("nuclei",)},
        {"augment.rotation_probability": 0.0},
    ),
}  # fmt: skip


def config_of(name, mode="", **changes):
    config = importlib.import_module(f"configs.{name}").get_config(mode)
    config.update_from_flattened_dict(changes)
    return config


def parameters_of(config):
    """The number of parameters of a config's network; nothing is computed."""
    model = make_task(resolve(config)).model
    plane = model.divisor[1:]
    example = jax.ShapeDtypeStruct((1, config.data.patch[0], *plane, len(config.roles.source.channels)), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), example)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", PAPER)
def test_the_numbers_are_the_papers(name):
    config = config_of(name)
    found = {}
    for field in PAPER[name]:
        value = config
        for part in field.split("."):
            value = value[part]
        found[field] = value
    assert found == PAPER[name]
    assert config.init.checkpoint == ""
    make_task(resolve(config))  # sizes and settings fit together


ONE_STAIN = {"roles.target.channels": ("nuclei",)}
# What the paper's text says of VSCyto2D, unlike the weights that were published.
FIVE_SLICES = {"data.patch": (5, 256, 256), "model.stem_kernel_size": (5, 4, 4)}


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("vscyto3d", {}, 32_042_729),
        ("vsneuromast", {}, 40_043_689),
        ("vsneuromast_finetune", {}, 40_043_689),
        ("vscyto2d", {}, 31_160_888),
        ("vscyto2d_finetune", {}, 31_160_888),
        ("vscyto2d_pretrain", FIVE_SLICES, 29_722_112),
        ("vscyto2d", FIVE_SLICES, 31_619_712),
        ("unet25d", ONE_STAIN, 2_014_322),
        ("fnet3d", {}, 35_318_529),
    ],
)
def test_the_networks_have_the_published_size(name, changes, parameters):
    assert parameters_of(config_of(name, **changes)) == parameters


@pytest.mark.parametrize("mode", ["", "debug"])
def test_dodnet_differs_from_the_unet_in_its_network_alone(mode):
    """What they are compared by: same data, loss, rate and steps; but DoDNet does not learn with dropout."""
    dodnet, unet = (config_of(name, mode) for name in ("dodnet", "unet2d"))
    assert {**dodnet.to_dict(), "model": None} == {**unet.to_dict(), "model": None}
    settings = [{**vars(make_task(resolve(config)).model), "name": None} for config in (dodnet, unet)]
    assert (settings[0]["dropout"], settings[1]["dropout"]) == (0.0, 0.2)
    shared = settings[0].keys() & settings[1].keys() - {"_state", "_id", "_parent_ref", "dropout"}
    assert {"num_filters", "num_blocks", "residual", "out_channels"} <= shared
    assert {name: settings[0][name] for name in shared} == {name: settings[1][name] for name in shared}


def test_a_hidden_cell_has_the_encoders_stride():
    """16 pixels for the published weights' stem, the paper's 32 for the stem of its text."""
    assert make_task(resolve(config_of("vscyto2d_pretrain"))).model.mask_stride == 16
    assert make_task(resolve(config_of("vscyto2d_pretrain", **FIVE_SLICES))).model.mask_stride == 32


@pytest.mark.parametrize(("name", "shape"), [("vscyto3d", 2048), ("vscyto2d", 2009), ("vsneuromast", 1024)])
def test_crops_fit_the_papers_images(name, shape):
    """Augmentation reads more than the patch; the smallest images of each dataset must hold it."""
    config = config_of(name)
    read = oversized_patch(read_section(AugmentConfig, config.augment, "config.augment"), config.data.patch)
    assert max(read[1:]) <= shape


@pytest.mark.parametrize("name", PAPER)
def test_the_fields_that_a_docstring_names_exist(name):
    module = importlib.import_module(f"configs.{name}")
    flat = module.get_config().to_dict()
    named = re.findall(r"--config\.([\w.]+)=", module.__doc__)
    assert "data.plates" in named
    assert set(named) <= {".".join(path) for path in flatten_dict(flat)}


# --- The small forms, on a simulated plate

STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Three steps of a small network are not worth XLA's optimisation, which takes three times as long; and a recipe
    that is trained twice, with and without a checkpoint, is compiled once."""
    before = jax.config.read("jax_disable_most_optimizations"), jax.config.jax_compilation_cache_dir
    set_up_compilation(True, os.environ["JAX_COMPILATION_CACHE_DIR"])
    yield
    set_up_compilation(*before)


def set_up_compilation(quick, cache):
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.config.update("jax_compilation_cache_dir", cache)
    compilation_cache.reset_cache()  # it looks for its folder only once


def run(name, plate, workdir, **changes):
    """Train the debug form for three steps. Each recipe has its own seed: equal ones would give equal weights to the
    layers that two networks share, trained or not."""
    fields = {"train.steps": STEPS, "train.validate_every": STEPS, "train.save_every": STEPS}
    config = config_of(name, "debug", seed=list(PAPER).index(name), **fields, **changes)
    config.data.plates = (str(plate),)
    return train(config, workdir)


@pytest.fixture(scope="module")
def trained(simulated_plate, tmp_path_factory):
    """Makes the folder of a recipe's run without a checkpoint to begin with, once for all tests."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("runs") / name
            metrics = run(name, simulated_plate, folders[name])
            assert math.isfinite(metrics["loss"])
        return folders[name]

    return folder


# These three train from a checkpoint below, or are small changes of what does.
LATER = ("vscyto2d_finetune", "vsneuromast", "vsneuromast_finetune")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LATER else []) for n in PAPER])
def test_the_small_form_trains_without_a_checkpoint(name, trained):
    saved = load_checkpoint(trained(name), "last")
    assert saved.description.step == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.variables))


def weights(folder, which=None):
    return {"/".join(path): value for path, value in flatten_dict(load_checkpoint(folder, which).variables).items()}


def largest_change(before, after, prefix=""):
    """The largest difference between the tensors of one name and shape, and the names of those that are not in both."""
    names = [name for name in {**before, **after} if name.startswith(f"params/{prefix}")]
    shared = [n for n in names if n in before and n in after and before[n].shape == after[n].shape]
    assert shared
    return max(float(np.abs(before[n] - after[n]).max()) for n in shared), sorted(set(names) - set(shared))


def reach(rate):
    """How far Adam can carry a parameter in the steps of a run; random layers lie ten times further apart."""
    return 1.5 * STEPS * rate


def test_stains_begin_with_the_pretrained_encoder_and_a_new_cell_type_with_all(trained, simulated_plate, tmp_path):
    """The recipe of three commands: masked pre-training, stains, new cell type."""
    pretrained = weights(trained("vscyto2d_pretrain"))
    moved, _ = largest_change(pretrained, weights(trained("vscyto2d")), "encoder")
    assert moved > 10 * reach(2e-4)  # without a checkpoint the encoders have nothing in common

    run("vscyto2d", simulated_plate, tmp_path / "stains", **{"init.checkpoint": str(trained("vscyto2d_pretrain"))})
    stains = weights(tmp_path / "stains", "last")
    for part in ("stem", "encoder"):
        moved, lost = largest_change(pretrained, stains, part)
        assert 0 < moved < reach(2e-4)
        assert lost == []

    run("vscyto2d_finetune", simulated_plate, tmp_path / "cells", **{"init.checkpoint": str(tmp_path / "stains")})
    moved, lost = largest_change(weights(tmp_path / "stains"), weights(tmp_path / "cells", "last"))
    assert 0 < moved < reach(2e-4)
    assert lost == []


def test_more_slices_begin_with_fewer(trained, simulated_plate, tmp_path):
    """All but the stem's kernel and the decoder's last stage, which depend on depth, comes over."""
    shallow = weights(trained("vsneuromast_15"))
    moved, _ = largest_change(shallow, weights(trained("vscyto3d")), "encoder")
    assert moved > 10 * reach(2e-3)  # encoders with nothing in common

    run("vsneuromast", simulated_plate, tmp_path / "deep", **{"init.checkpoint": str(trained("vsneuromast_15"))})
    moved, lost = largest_change(shallow, weights(tmp_path / "deep", "last"))
    assert 0 < moved < reach(2e-3)
    assert all(name.startswith(("params/stem/conv/kernel", "params/decoder/stage_2/")) for name in lost)


@pytest.mark.slow
def test_equalised_targets_begin_with_all(trained, simulated_plate, tmp_path):
    begun = {"init.checkpoint": str(trained("vsneuromast"))}
    run("vsneuromast_finetune", simulated_plate, tmp_path / "tuned", **begun)
    moved, lost = largest_change(weights(trained("vsneuromast")), weights(tmp_path / "tuned", "last"))
    assert 0 < moved < reach(2e-4)
    assert lost == []


TABLE_1 = ("palette", "palette_thresholds", "diffstain", "class_guided", "diffstain_unet", "diffstain_dodnet")


@pytest.mark.parametrize("mode", ["", "debug"])
def test_the_methods_of_diffstains_table_share_data_and_schedule(mode):
    """Han et al. 2025, section 3: batches of one, a rate of 5e-4, three planes of 512 x 512 to five stains."""
    configs = [importlib.import_module(f"configs.{name}").get_config(mode) for name in TABLE_1]
    for config in configs:
        config.data.plates = ("P.zarr",)
        task = make_task(resolve(config))
        assert (config.data, config.train.steps) == (configs[0].data, configs[0].train.steps)
        assert config.roles.target == configs[0].roles.target
        if mode:
            continue
        assert (tuple(config.data.patch), config.data.batch_size) == ((1, 512, 512), 1)
        assert config.optim.learning_rate == 5e-4
        assert (task.model.in_channels, task.model.out_channels) == (3, 5)
        if config.task.name == "diffusion":
            schedule = config.task.process.schedule
            assert (schedule.kind, schedule.steps, schedule.start, schedule.end) == ("linear", 2000, 1e-6, 0.01)
            assert (config.task.norm, config.task.process.parameterization) == ("l1", "eps")
            assert config.optim.average_decay == 0.9999
    assert [config.task.sampler.masks for config in configs[:3]] == ["none", "threshold", "nsc"]
