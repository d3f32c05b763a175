"""Other software's files become checkpoints that predict the authors' numbers; anything else is refused in one line."""

import os
import pickle
import re
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import vsjax
from vsjax.convert import main
from vsjax.errors import UserError
from vsjax.inference.settings import PredictionSettings
from vsjax.interop.published import find_recipe
from vsjax.interop.torch_reader import read_checkpoint
from vsjax.models.registry import build_model, model_settings
from vsjax.plates.reader import open_plate
from vsjax.predict import main as predict
from vsjax.runtime.checkpoint import load_checkpoint

# What each golden checkpoint needs beside itself: none is of a published model's size.
GOLDEN = {
    "tiny_unext2_atto": ["--target", "nuclei", "membrane"],
    "tiny_unet25d": ["--target", "nuclei", "membrane"],
    "tiny_unet3d": ["--target", "nuclei", "membrane"],
    "tiny_fcmae_2d_pretrain": [],
    "tiny_fcmae_3d_pretrain": [],
}
NOT_NORMALISED = ["--normalization-source", "none"]


def convert(path, output, *flags):
    main(["--input", str(path), "--output", str(output), *flags])
    return output


def golden_file(shared, name):
    return shared / "golden" / f"{name}_pert.ckpt"


def golden_tensors(shared, name="tiny_unext2_atto"):
    tensors = read_checkpoint(golden_file(shared, name)).tensors
    return {key.removeprefix("model."): np.ascontiguousarray(value) for key, value in tensors.items()}


def check_golden(shared, name, checkpoint):
    """The predictor gives what VisCy gave, in the slices that the network predicts."""
    golden = np.load(shared / "golden" / f"{name}.npz")
    expected = golden["y_pert"][0]
    predicted = vsjax.load(checkpoint).predict(golden["x"][0], axes="CZYX")
    first = (predicted.shape[1] - expected.shape[1]) // 2
    predicted = predicted[:, first : first + expected.shape[1]]
    assert np.abs(predicted - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_converted_checkpoint_predicts_the_authors_output(shared, tmp_path, name):
    checkpoint = convert(golden_file(shared, name), tmp_path / "model", *GOLDEN[name], *NOT_NORMALISED)
    check_golden(shared, name, checkpoint)


@pytest.mark.parametrize("prefix", ["", "model._orig_mod.", "module."], ids=["plain", "compiled", "parallel"])
def test_a_safetensors_file_needs_only_what_no_shape_tells(shared, tmp_path, prefix):
    """Nothing but tensors: `head_pool` has none, and is the one setting that must be given."""
    save_file({prefix + key: value for key, value in golden_tensors(shared).items()}, tmp_path / "model.safetensors")
    flags = ("--target", "a", "b", "--set", "head_pool=True")
    checkpoint = convert(tmp_path / "model.safetensors", tmp_path / "model", *flags, *NOT_NORMALISED)
    check_golden(shared, "tiny_unext2_atto", checkpoint)


def test_channels_that_nobody_names_are_numbered(shared, tmp_path, capsys):
    checkpoint = convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", *NOT_NORMALISED)
    assert "nothing tells the names of its target channels: target_0 target_1 (--target" in capsys.readouterr().out
    assert vsjax.load(checkpoint).target_channels == ("target_0", "target_1")
    check_golden(shared, "tiny_unext2_atto", checkpoint)


def test_what_is_restored_has_the_names_of_what_is_seen():
    """A masked autoencoder of two channels; a network of two channels to three stains."""
    recipe = find_recipe("fcmae", {"in_channels": 2, "out_channels": 2, "head_conv": False})
    assert recipe.source_channels == recipe.target_channels == ("source_0", "source_1")
    recipe = find_recipe("unext2", {"in_channels": 2, "out_channels": 3})
    assert (recipe.source_channels, recipe.target_channels) == (
        ("source_0", "source_1"),
        ("target_0", "target_1", "target_2"),
    )


def test_assumed_settings_are_said(shared, tmp_path, capsys):
    save_file(golden_tensors(shared), tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "a", "--target", "a", "b")
    assert "do not tell (--set gives other values): head_pool=False" in capsys.readouterr().out
    convert(tmp_path / "model.safetensors", tmp_path / "b", "--target", "a", "b", "--set", "head_pool=True")
    assert "do not tell" not in capsys.readouterr().out


def test_the_description_is_the_users(shared, tmp_path, simulated_plate):
    """Channels, normalisation and statistics as given; the statistics are the plate's own."""
    flags = ["--source", "BF", "--target", "membrane", "nuclei", "--statistics", str(simulated_plate)]
    flags += ["--normalization-source", "fov/median_iqr", "--normalization-target", "dataset/mean_std"]
    predictor = vsjax.load(convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", *flags))
    assert (predictor.source_channels, predictor.target_channels) == (("BF",), ("membrane", "nuclei"))
    assert (predictor.normalization.scope, predictor.normalization.statistic) == ("fov", "median_iqr")
    sampled = [np.concatenate([read_pixels(simulated_plate, n, c) for n in range(3)]) for c in ("membrane", "nuclei")]
    np.testing.assert_allclose(predictor.target_location, [pixels.mean() for pixels in sampled], rtol=1e-6)
    np.testing.assert_allclose(predictor.target_scale, [pixels.std() for pixels in sampled], rtol=1e-6)
    assert predictor.pixel_size_um == pytest.approx((1.0, 0.325, 0.325))


def read_pixels(plate, position, channel):
    """Every 32nd pixel in Y and X, which is what the statistics are of."""
    image = open_plate(plate)[f"A/1/{position}"]
    return np.asarray(image.array()[0, image.channel_index(channel), :, ::32, ::32].read().result(), np.float64)


def test_without_statistics_a_plate_is_stained_in_normalised_units_only(shared, tmp_path, simulated_plate):
    """And the prediction's attributes claim no location and scale, so that evaluation standardises."""
    checkpoint = convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", "--target", "nuclei", "membrane")
    command = ["--checkpoint", str(checkpoint), "--input", str(simulated_plate), "--source", "BF"]
    command += ["--positions", "A/1/0", "--output", str(tmp_path / "stained.zarr")]
    with pytest.raises(UserError, match=r"statistics of nuclei, membrane.*--statistics PLATE.zarr"):
        predict([*command, "--units", "target"])
    assert not (tmp_path / "stained.zarr").exists()
    predict(command)
    stained = open_plate(tmp_path / "stained.zarr")["A/1/0"]
    assert stained.channel_names == ("nuclei_prediction", "membrane_prediction")
    assert stained.attributes["vsjax"]["about"]["prediction"]["normalization"] == {}
    assert stained.array()[...].read().result().std() > 0


def test_statistics_at_conversion_give_the_targets_units(shared, tmp_path, simulated_plate):
    flags = ["--source", "BF", "--target", "nuclei", "membrane", "--statistics", str(simulated_plate)]
    predictor = vsjax.load(convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", *flags))
    volume = np.random.default_rng(0).normal(100, 10, (5, 64, 64))
    normalised, units = (
        predictor.predict(volume, PredictionSettings(units=units)) for units in ("normalized", "target")
    )
    attributes = open_plate(simulated_plate)["A/1/0"].attributes["normalization"]
    for channel, name in enumerate(("nuclei", "membrane")):
        stored = attributes[name]["dataset_statistics"]
        expected = normalised[..., channel] * stored["iqr"] + stored["median"]
        np.testing.assert_allclose(units[..., channel], expected, rtol=1e-4)


def backbone_file(shared, path):
    """The golden network's encoder under timm's names."""
    prefix = "encoder_stages."
    tensors = {k.removeprefix(prefix): v for k, v in golden_tensors(shared).items() if k.startswith(prefix)}
    save_file({re.sub(r"^(stem|stages)_(\d)", r"\1.\2", name): value for name, value in tensors.items()}, path)
    return path


def test_a_backbone_becomes_an_encoder_that_predict_refuses(shared, tmp_path):
    """Its encoder is the whole network's, and there are no other parameters."""
    checkpoint = convert(backbone_file(shared, tmp_path / "timm.safetensors"), tmp_path / "model")
    with pytest.raises(UserError, match=r"holds only the encoder of unext2.*config.init.load=encoder"):
        vsjax.load(checkpoint)
    flags = GOLDEN["tiny_unext2_atto"]
    whole = load_checkpoint(convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "whole", *flags))
    stored = load_checkpoint(checkpoint)
    assert stored.description.config["model"]["backbone"] == "convnextv2_atto"
    wanted = {k: v for k, v in whole.variables["params"].items() if k == "stem_norm" or k.startswith("encoder_")}
    assert set(stored.variables) == {"params"}
    jax.tree.map(np.testing.assert_array_equal, stored.variables["params"], wanted)


class RunsCommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def malicious(path, shared):
    with zipfile.ZipFile(path, "w") as archive:
        command = f"touch {path.parent / 'trace'}"
        archive.writestr("a/data.pkl", pickle.dumps({"state_dict": {"w": RunsCommand(command)}}, protocol=2))


def truncated(path, shared):
    content = golden_file(shared, "tiny_unext2_atto").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def diverged(path, shared):
    tensors = golden_tensors(shared)
    tensors["stem.conv.bias"] = np.full_like(tensors["stem.conv.bias"], np.nan)
    save_file(tensors, path)


def huge(path, shared):
    """float64 that float32 does not hold."""
    tensors = golden_tensors(shared)
    tensors["stem.conv.bias"] = np.full(tensors["stem.conv.bias"].shape, 1e300)
    save_file(tensors, path)


def flat(path, shared):
    tensors = golden_tensors(shared)
    tensors["stem.conv.weight"] = tensors["stem.conv.weight"].reshape(-1)
    save_file(tensors, path)


def with_model_config(path, shared, config):
    """The golden file with other settings in its pickle, which ends with the dictionary that holds them."""
    with zipfile.ZipFile(golden_file(shared, "tiny_unext2_atto")) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                settings = pickle.dumps({"model_config": config}, protocol=2)[2:-1]
                content = content[:-1] + b"X\x10\0\0\0hyper_parameters" + settings + b"s."
            new.writestr(entry.filename, content)


BAD_FILES = {
    "malicious.ckpt": (malicious, rf"refused.*\({os.system.__module__}.system\)"),
    "truncated.ckpt": (truncated, "not a complete PyTorch checkpoint"),
    "photo.ckpt": (lambda p, _: Image.new("RGB", (8, 8)).save(p, "JPEG"), "not a complete PyTorch checkpoint"),
    "text.pt": (lambda p, _: p.write_text("hello"), "not a complete PyTorch checkpoint"),
    "text.safetensors": (lambda p, _: p.write_text("hello, world"), "not a complete safetensors file"),
    "absent.ckpt": (lambda p, _: None, "there is no such file"),
    "resnet.safetensors": (
        lambda p, _: save_file({"layer1.0.conv1.weight": np.zeros((1, 1, 3, 3))}, p),
        r"no network that vsjax knows \(its tensors are layer1.0.conv1.weight",
    ),
    "diverged.safetensors": (diverged, "stem/conv/bias holds NaN"),
    "huge.safetensors": (huge, "head/conv/bias|stem/conv/bias holds NaN or infinite"),
    "empty.safetensors": (
        lambda p, _: save_file({"stem.conv.weight": np.zeros((0, 3), np.float32)}, p),
        r"tensor stem.conv.weight: its shape \(0, 3\) holds no numbers",
    ),
    "flat.safetensors": (flat, "looks like unext2, but its tensors have not the shapes of one"),
    "many.safetensors": (
        lambda p, shared: save_file(golden_tensors(shared) | {f"x{n}": np.zeros(1) for n in range(5000)}, p),
        r"5000 unexpected: x0, x1, x10, x100, and 4996 more\); give the settings",
    ),
    "list.ckpt": (partial(with_model_config, config=[1]), "hyper_parameters.model_config: is a list, not a table"),
    "text.ckpt": (
        partial(with_model_config, config={"head_pool": "x"}),
        "hyper_parameters.model_config.head_pool: is 'x'",
    ),
    "blocks.ckpt": (
        partial(with_model_config, config={"drop_path_rate": float("nan")}),
        "hyper_parameters.model_config.drop_path_rate: is nan",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_give_one_line_and_write_nothing(shared, tmp_path, name):
    write, message = BAD_FILES[name]
    write(tmp_path / name, shared)
    with pytest.raises(UserError, match=message) as caught:
        convert(tmp_path / name, tmp_path / "model", "--target", "a", "b")
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "nuclei"], r"predicts 2 channels, but --target names nuclei"),
        (["--target", "nuclei", "nuclei"], r"name 2 different ones"),
        (["--target", "a", "b", "--source", "c", "d"], r"sees 1 channels, but --source names c d"),
        (["--target", "a", "b", "--model", "fcmae"], r"holds the network unext2, not fcmae"),
        (["--target", "a", "b", "--set", "depth=3"], r"--set depth: is no setting of unext2"),
        (["--target", "a", "b", "--set", "depth"], r"--set depth: has no value"),
        (["--target", "a", "b", "--set", "out_channels=3"], r"_pert.ckpt: these weights do not fit"),
        (["--target", "a", "b", "--normalization-source", "fov"], r"--normalization-source fov: .*fov/mean_std"),
        (["--target", "a", "b", "--statistics", "{plate}"], r"cells.zarr.*channel.*'a'"),
        (["--statistics", "{plate}"], r"cells.zarr.*--target"),
        (["--target", "a", "b", "--pixel-size", "1", "0", "1"], r"--pixel-size"),
        (["--target", "a", "b", "--pixel-size", "1", "nan", "1"], r"--pixel-size"),
        (["--target", "a", "\udcff"], r"--target \?: is no name of a channel"),
        (["--target", "a", ""], r"--target : is no name of a channel"),
        (["--target", "a", "b", "--set", "drop_path_rate=x"], r"--set.drop_path_rate: is 'x'"),
        (["--target", "a", "b", "--set", "in_stack_depth=1000000000"], r"--set.in_stack_depth: is 1000000000"),
        (["--target", "a", "b", "--set", "head_pool=" + "(" * 10_000], r"--set.head_pool: is '\(\(\("),
    ],
)
def test_wrong_flags_give_one_line_and_write_nothing(shared, tmp_path, simulated_plate, flags, message):
    flags = [str(simulated_plate) if flag == "{plate}" else flag for flag in flags]
    with pytest.raises(UserError, match=message) as caught:
        convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", *flags)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(shared, tmp_path):
    first, second = (golden_file(shared, name) for name in ("tiny_fcmae_2d_pretrain", "tiny_fcmae_3d_pretrain"))
    convert(first, tmp_path / "model")
    with pytest.raises(UserError, match="exists; choose another --output"):
        convert(second, tmp_path / "model")
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "absent.ckpt", tmp_path / "model", "--overwrite")
    assert vsjax.load(tmp_path / "model").in_depth == 1
    convert(second, tmp_path / "model", "--overwrite")
    assert vsjax.load(tmp_path / "model").in_depth == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_overwrite_spares_what_was_not_converted(shared, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no converted checkpoint"):
        convert(golden_file(shared, "tiny_fcmae_2d_pretrain"), tmp_path / "thesis", "--overwrite")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    model = convert(golden_file(shared, "tiny_fcmae_2d_pretrain"), tmp_path / "model")
    (model / "checkpoints" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no converted checkpoint"):
        convert(golden_file(shared, "tiny_fcmae_2d_pretrain"), model, "--overwrite")
    with pytest.raises(UserError, match="cannot be written"):
        convert(golden_file(shared, "tiny_fcmae_2d_pretrain"), tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("name", "settings", "title", "source", "target"),
    [
        ("unext2", {"in_stack_depth": 5}, "VSCyto3D", "dataset/median_iqr", "dataset/median_iqr"),
        ("unext2", {"in_stack_depth": 21}, "VSNeuromast", "fov/median_iqr", "fov/median_iqr"),
        ("fcmae", {"in_stack_depth": 1}, "VSCyto2D", "fov/mean_std", "fov/median_iqr"),
        ("fcmae", {"in_stack_depth": 1, "dims": (8, 16, 32, 64)}, "no published", "fov/mean_std", "fov/median_iqr"),
        ("unet25d", {}, "no published", "fov/mean_std", "fov/median_iqr"),
    ],
)
def test_published_models_are_known_by_their_shape(name, settings, title, source, target):
    """Normalisation as in the Methods of Liu et al. 2025."""
    recipe = find_recipe(name, {**model_settings(name), "in_channels": 1, "out_channels": 2, **settings})
    assert title in recipe.title
    assert (f"{recipe.source.scope}/{recipe.source.statistic}", f"{recipe.target.scope}/{recipe.target.statistic}") == (
        source,
        target,
    )
    assert recipe.target_channels == (("target_0", "target_1") if title == "no published" else ("nuclei", "membrane"))


def test_settings_reach_the_network(shared, tmp_path):
    """`--set` changes what is computed as the setting does in the network itself."""
    flags = (*GOLDEN["tiny_unext2_atto"], *NOT_NORMALISED, "--set", "input_gain=0.5")
    checkpoint = convert(golden_file(shared, "tiny_unext2_atto"), tmp_path / "model", *flags)
    x = np.load(shared / "golden" / "tiny_unext2_atto.npz")["x"][0]
    stored = load_checkpoint(checkpoint)
    settings = {key: value for key, value in stored.description.config["model"].items() if key != "name"}
    model = build_model("unext2", **{**settings, "input_gain": 1.0})
    expected = model.apply(stored.variables, jnp.asarray(np.moveaxis(x, 0, -1)[None] * 0.5))
    predicted = vsjax.load(checkpoint).predict(np.moveaxis(x, 0, -1), axes="ZYXC")
    np.testing.assert_allclose(predicted, expected[0], atol=1e-4)
