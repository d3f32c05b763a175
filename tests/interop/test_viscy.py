"""VisCy's weights must give VisCy's numbers."""

import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.interop.torch_reader import read_checkpoint
from vsjax.interop.viscy import variables_from_state
from vsjax.models.registry import build_model


def relative_error(ours, theirs):
    """Largest difference between channels-last ours and PyTorch's channels-first theirs, over their largest value."""
    theirs = np.moveaxis(theirs, 1, -1)
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("depthwise", ["shift", "conv"])
def test_unext2_reproduces_the_authors_output(shared, depthwise):
    checkpoint = read_checkpoint(shared / "golden" / "tiny_unext2_atto_pert.ckpt")
    settings = checkpoint.hyper_parameters["model_config"]
    variables = variables_from_state("unext2", checkpoint.tensors, settings)
    golden = np.load(shared / "golden" / "tiny_unext2_atto.npz")
    x = np.moveaxis(golden["x"], 1, -1)
    y = build_model("unext2", depthwise=depthwise, **settings).apply(variables, x, train=False)
    assert relative_error(y, golden["y_pert"]) < 1e-5


def test_weights_that_do_not_fit_are_listed_by_name(shared):
    checkpoint = read_checkpoint(shared / "golden" / "tiny_unext2_atto_pert.ckpt")
    tensors = dict(checkpoint.tensors)
    tensors["model.stem.convolution.weight"] = tensors.pop("model.stem.conv.weight")
    tensors["model.head.conv.1.bias"] = tensors["model.head.conv.1.bias"][:-1]
    with pytest.raises(UserError) as caught:
        variables_from_state("unext2", tensors, checkpoint.hyper_parameters["model_config"])
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing: stem.conv.weight" in message
    assert "1 unexpected: stem.convolution.weight" in message
    assert "1 of another shape: head.conv.1.bias (7,) for (8,)" in message
