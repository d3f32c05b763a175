"""The program that draws a network's features."""

import os

import jax
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.features import main
from vsjax.models.registry import build_model
from vsjax.runtime.checkpoint import save_variables

ATTO = {"backbone": "convnextv2_atto", "out_channels": 2, "decoder_conv_blocks": 1}


def test_it_draws_a_picture_and_overwrites_nothing(describe_weights, simulated_plate, tmp_path):
    model = build_model("unext2", **ATTO)
    window = np.zeros((1, 5, 32, 32, 1), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), window, train=False))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.gamma(0.5, 0.1, leaf.shape).astype(np.float32), shapes)
    description = describe_weights({"name": "unext2", **ATTO}, ["BF"], ["nuclei", "membrane"])
    save_variables(tmp_path / "run", variables, description)
    command = ["--checkpoint", str(tmp_path / "run"), "--input", str(simulated_plate), "--position", "A/1/0"]
    output = tmp_path / "features.png"
    main([*command, "--output", str(output), "--crop", "64", "96"])
    first = output.read_bytes()
    assert first.startswith(b"\x89PNG")
    with pytest.raises(UserError, match="exists; choose another --output"):
        main([*command, "--output", str(output)])
    main([*command, "--output", str(output), "--stages", "decoder/stage_1", "--overwrite"])
    assert output.read_bytes() != first
    for flags, message in ((["--z", "9"], "has slices 0 to 4"), (["--crop", "16", "64"], "--crop must be at least")):
        with pytest.raises(UserError, match=message):
            main([*command, "--output", str(tmp_path / "other.png"), *flags])
    for flags, message in (
        (["--stages", *(f"a{n}" for n in range(65))], "--stages: names 65; name at most 64"),
        (["--stages", "x" * 10_000], "--stages xxx.*: the network has no such stage; its stages are encoder_0"),
        (["--position", "Z/99/0"], "Z/99/0"),
        (["--source", "x" * 10_000], "xxx"),
        (["--input", str(tmp_path / "run")], "run: "),
        (["--input", str(output)], "features.png"),
        (["--checkpoint", str(output)], "features.png: no whole checkpoint"),
        (["--checkpoint", str(simulated_plate)], "no whole checkpoint"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            main([*command, "--output", str(tmp_path / "other.png"), *flags])
        assert "\n" not in str(caught.value)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for flag in ("--checkpoint", "--input"):
        with pytest.raises(UserError, match="pipe"):
            main([*command, "--output", str(tmp_path / "other.png"), flag, str(pipe)])
    assert not (tmp_path / "other.png").exists()


def test_only_a_picture_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = ["--checkpoint", str(tmp_path / "run"), "--input", str(tmp_path / "P.zarr"), "--overwrite"]
    for output in (tmp_path / "thesis.txt", tmp_path):
        with pytest.raises(UserError, match="is no picture" if output != tmp_path else "lie in one another"):
            main([*command, "--output", str(output)])
    assert (tmp_path / "thesis.txt").read_text() == "mine"
