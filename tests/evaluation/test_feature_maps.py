"""Principal components against the singular value decomposition; features against the network's modules one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from vsjax.errors import UserError
from vsjax.evaluation.feature_maps import capture_features, principal_components, read_window, to_rgb
from vsjax.inference.predictor import load
from vsjax.models.convnext import ConvNeXtStage, LayerNorm
from vsjax.models.registry import build_model
from vsjax.models.unext2 import UpStage, VolumeStem
from vsjax.plates.reader import open_plate
from vsjax.runtime.checkpoint import save_variables

ATTO = {"backbone": "convnextv2_atto", "out_channels": 2, "decoder_conv_blocks": 1}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
    """UNeXt2, its variables and a window."""
    model = build_model("unext2", **ATTO)
    window = np.random.default_rng(1).normal(size=(1, 5, 64, 32, 1)).astype(np.float32)
    return model, drawn_variables(model, window), window


def drawn_variables(model, window):
    """Variables of the right shapes, positive, as variances must be; nothing is compiled."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), window)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda p: random.gamma(0.5, 0.1, p.shape).astype(np.float32), shapes)


def correlated(random, shape=(20, 30, 12)):
    """Features with decidedly different variances along directions that are not the axes."""
    mixing = random.normal(size=(shape[-1], shape[-1])) * 1.5 ** -np.arange(shape[-1])[:, None]
    return (random.normal(size=shape) @ mixing + random.normal(size=shape[-1])).astype(np.float32)


def test_components_are_those_of_the_singular_value_decomposition(random):
    features = correlated(random)
    samples = features.reshape(-1, 12).astype(np.float64)
    u, s, weights = scipy.linalg.svd(samples - samples.mean(axis=0), full_matrices=False)
    components, shares = principal_components(features, 8)
    signs = np.sign(weights[np.arange(8), np.abs(weights[:8]).argmax(axis=1)])
    np.testing.assert_allclose(components.reshape(-1, 8), u[:, :8] * s[:8] * signs, atol=1e-4)
    np.testing.assert_allclose(shares, (s**2 / (s**2).sum())[:8], rtol=1e-9)


def test_the_sign_does_not_depend_on_how_the_channels_are_ordered(random):
    """The eigenvectors' arbitrary signs do."""
    features = correlated(random)
    expected, _ = principal_components(features)
    for _ in range(5):
        shuffled = features[..., random.permutation(12)]
        np.testing.assert_allclose(principal_components(shuffled)[0], expected, atol=1e-4)


def test_dimensions_that_are_not_there_are_zero(random):
    plane = random.normal(size=(6, 5, 2)) @ random.normal(size=(2, 10))
    components, shares = principal_components(plane, 4)
    assert np.all(components[..., 2:] == 0)
    assert np.all(shares[2:] == 0)
    assert shares.sum() == pytest.approx(1)
    components, shares = principal_components(plane[..., :1], 4)
    assert (components.shape, np.count_nonzero(shares)) == ((6, 5, 4), 1)
    assert np.all(principal_components(np.full((4, 4, 3), 0.1, np.float32))[0] == 0)


def test_each_colour_has_its_own_range(random):
    """Location and scale of a component do not show; pixels beyond the percentiles are clipped; constants are black."""
    components = random.normal(size=(40, 50, 3))
    rgb = to_rgb(components)
    np.testing.assert_allclose(to_rgb(components * [3, 0.01, 1] + [5, -2, 0]), rgb, atol=1e-9)
    assert [rgb[..., i].min() for i in range(3)] == [0, 0, 0]
    assert [rgb[..., i].max() for i in range(3)] == [1, 1, 1]
    assert np.mean(rgb == 0) == pytest.approx(0.01, abs=0.002)
    assert np.all(to_rgb(np.zeros((4, 4, 8))) == 0)


def test_encoder_features_are_those_of_its_modules_applied_one_by_one(network):
    model, variables, window = network
    params = variables["params"]
    features, prediction = capture_features(model, variables, np.asarray(window), ["encoder_1", "stem"])

    @jax.jit
    def one_by_one(params, window):
        stem = VolumeStem(40, (5, 4, 4)).apply({"params": params["stem"]}, window)
        x = LayerNorm().apply({"params": params["stem_norm"]}, stem)
        x = ConvNeXtStage(40, (0.0, 0.0)).apply({"params": params["encoder_0"]}, x, False)
        return stem, ConvNeXtStage(80, (0.0, 0.0), stride=2).apply({"params": params["encoder_1"]}, x, False)

    stem, x = one_by_one(params, window)
    np.testing.assert_allclose(features["stem"], stem[0], atol=1e-5)
    np.testing.assert_allclose(features["encoder_1"], x[0], rtol=1e-4, atol=1e-4)
    expected = jax.jit(model.apply)(variables, window)[0]
    np.testing.assert_allclose(prediction, expected, rtol=1e-4, atol=1e-4)


def test_decoder_features_are_those_of_its_stage(network):
    model, variables, window = network
    wanted = ["encoder_1", "decoder/stage_0", "decoder/stage_1"]
    features, _ = capture_features(model, variables, np.asarray(window), wanted)
    batch = {name: jnp.asarray(array)[None] for name, array in features.items()}
    stage = UpStage(80, 1)
    params = {"params": variables["params"]["decoder"]["stage_1"]}
    expected = jax.jit(partial(stage.apply, train=False))(params, batch["decoder/stage_0"], batch["encoder_1"])
    np.testing.assert_allclose(features["decoder/stage_1"], expected[0], rtol=1e-4, atol=1e-4)


FAMILIES = {
    "unext2": (ATTO, "encoder_0 encoder_1 encoder_2 encoder_3 decoder/stage_0 decoder/stage_1 decoder/stage_2"),
    "fcmae": (
        {"dims": (8, 16, 32), "encoder_blocks": (1, 1, 1)},
        "encoder_0 encoder_1 encoder_2 decoder/stage_0 decoder/stage_1",
    ),
    "unet25d": ({"num_blocks": 2, "num_filters": (4, 8, 16)}, "down_0 down_1 bottom up_0 up_1"),
    "unet2d": ({"num_blocks": 2, "num_filters": (4, 8, 16)}, "down_0 down_1 bottom up_0 up_1"),
    "dodnet": ({"num_blocks": 2, "num_filters": (4, 8, 16)}, "down_0 down_1 bottom up_0 up_1"),
    "fnet3d": (
        {"depth": 2, "mult_chan": 4, "in_stack_depth": 4},
        "encoder_0 encoder_1 bottleneck decoder_0 decoder_1",
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_has_its_stages_in_order(name):
    """Coarse in the middle, fine at both ends: the features' sizes say that they are what their names say."""
    settings, stages = FAMILIES[name]
    model = build_model(name, **settings)
    rows, columns = (2 * divisor for divisor in model.divisor[1:])
    window = np.random.default_rng(0).normal(size=(1, model.in_stack_depth, rows, columns, 1)).astype(np.float32)
    variables = drawn_variables(model, window)
    assert model.stages == tuple(stages.split())
    features, _ = capture_features(model, variables, window, stages.split())
    rows = [features[stage].shape[-3] for stage in stages.split()]
    turn = rows.index(min(rows))
    assert rows[: turn + 1] == sorted(rows[: turn + 1], reverse=True)
    assert rows[turn:] == sorted(rows[turn:])
    assert rows[0] > rows[turn]
    assert rows[-1] > rows[turn]


def test_an_unknown_stage_is_refused_with_those_that_exist(network):
    model, variables, window = network
    with pytest.raises(UserError, match=r"--stages encoder_9: .*encoder_3, decoder/stage_0"):
        capture_features(model, variables, np.asarray(window), ["encoder_9"])


def test_features_that_are_not_finite_are_refused(network):
    model, variables, window = network
    with pytest.raises(
        UserError, match="--stages encoder_0: is NaN or infinite, so the checkpoint's training diverged"
    ):
        capture_features(model, variables, np.full_like(window, np.nan), ["encoder_0"])


def test_the_window_shown_is_the_one_around_the_slice(describe_weights, simulated_plate, tmp_path):
    """Pixels of the plate itself, normalised by the statistics that stand in it."""
    settings = {"num_blocks": 2, "num_filters": (4, 4, 4), "in_stack_depth": 3}
    model = build_model("unet25d", **settings)
    variables = drawn_variables(model, np.zeros((1, 3, 8, 8, 1)))
    save_variables(
        tmp_path / "run",
        variables,
        describe_weights({"name": "unet25d", **settings}, ["nuclei"], ["BF"], "dataset", "median_iqr"),
    )
    position = open_plate(simulated_plate)["A/1/1"]
    pixels = position.array()[0, position.channel_index("nuclei")].read().result().astype(np.float64)
    stored = position.attributes["normalization"]["nuclei"]["dataset_statistics"]
    for z, start in ((0, 0), (2, 1), (4, 2)):
        window, at = read_window(position, load(tmp_path / "run"), ["nuclei"], z, (40, 64))
        expected = (pixels[start : start + 3, 28:68, 16:80] - stored["median"]) / stored["iqr"]
        np.testing.assert_allclose(window[0, ..., 0], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(window[0, at, ..., 0], expected[z - start], rtol=1e-5, atol=1e-5)
