"""The z sliding window against VisCy's blending, a plain NumPy average, and constants."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsjax.errors import UserError
from vsjax.inference.windows import plan_windows, predict_windows, windows_per_call


def slide(apply, volume, plan, windows=1, **options):
    """One tile's windows through a network that does not ask where they lie."""
    return predict_windows(lambda stacked, origins: apply(stacked), volume[None], [(0, 0)], plan, windows, **options)[0]


@st.composite
def plans(draw):
    in_depth = draw(st.integers(1, 9))
    out_depth = draw(st.integers(1, in_depth))
    depth = draw(st.integers(in_depth, 24))
    return plan_windows(depth, in_depth, out_depth, draw(st.integers(1, 12)))


def constant_network(out_depth, value):
    return lambda windows: jnp.full((windows.shape[0], out_depth, *windows.shape[2:]), value, jnp.float32)


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(1, 4))
def test_constant_one_stays_exactly_one(plan, batch_size):
    volume = np.zeros((plan.depth, 2, 3, 1), np.float32)
    output = slide(constant_network(plan.out_depth, 1.0), volume, plan, batch_size)
    assert output.shape == volume.shape
    assert np.array_equal(output, np.ones_like(volume))


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(1, 4))
def test_network_that_returns_its_central_slices_is_the_identity(plan, batch_size):
    """Every slice gets back its own value: the output is neither shifted nor blended with a neighbour."""
    volume = np.arange(plan.depth, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
    first = (plan.in_depth - plan.out_depth) // 2
    output = slide(lambda w: jnp.asarray(w[:, first : first + plan.out_depth]), volume, plan, batch_size)
    np.testing.assert_allclose(output, volume, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(plans(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_average_of_random_windows(plan, batch_size, seed):
    """Against a loop in float64 over predictions that differ from window to window."""
    predictions = np.random.default_rng(seed).normal(size=(len(plan.starts), plan.out_depth, 2, 2, 1))
    total, counts = np.zeros((plan.depth, 2, 2, 1)), np.zeros((plan.depth, 1, 1, 1))
    for start, prediction in zip(plan.starts, predictions, strict=True):
        total[start : start + plan.out_depth] += prediction
        counts[start : start + plan.out_depth] += 1
    output = slide(_lookup(plan, predictions), *_numbered(plan), batch_size)
    np.testing.assert_allclose(output, total / counts, atol=1e-6)


def test_viscy_blending(shared):
    golden = np.load(shared / "golden" / "misc.npz")
    windows = np.moveaxis(golden["blend_windows"], 1, -1)
    plan = plan_windows(depth=11, in_depth=5, out_depth=5)
    assert len(plan.starts) == len(windows)
    output = slide(_lookup(plan, windows), *_numbered(plan, plane=(12, 12)), windows=2)
    np.testing.assert_allclose(output, np.moveaxis(golden["blend_out"], 0, -1), atol=1e-6)


def test_edge_windows_see_replicated_slices():
    """13 in, 1 out: the first slice is predicted from six copies of itself, itself and the next six."""
    seen = []
    plan = plan_windows(depth=13, in_depth=13, out_depth=1)
    volume = np.arange(13, dtype=np.float32)[:, None, None, None]

    def apply(windows):
        seen.extend(windows[:, :, 0, 0, 0].tolist())
        return jnp.asarray(windows[:, 6:7])

    slide(apply, volume, plan)
    assert seen[0] == [0] * 6 + list(range(7))
    assert seen[6] == list(range(13))
    assert seen[12] == [*range(6, 13)] + [12] * 6


def test_windows_are_computed_once_and_reported():
    calls, reported = [], []
    plan = plan_windows(depth=9, in_depth=3, out_depth=3, step=2)

    def apply(windows):
        calls.append(windows[:, 0, 0, 0, 0].tolist())
        return jnp.asarray(windows)

    volume = np.arange(9, dtype=np.float32)[:, None, None, None]
    slide(apply, volume, plan, windows=3, on_batch=reported.append)
    assert calls == [[0, 2, 4], [6, 6, 6]]  # the last batch is filled up, its repeats count nothing
    assert reported == [3, 1]


@settings(deadline=None, max_examples=40)
@given(plans(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_tiles_in_one_call_are_each_as_alone(plan, tiles, windows, seed):
    rng = np.random.default_rng(seed)
    volumes = rng.normal(size=(tiles, plan.depth, 2, 3, 1)).astype(np.float32)
    corners = [(int(y), int(x)) for y, x in rng.integers(-9, 99, (tiles, 2))]
    first = (plan.in_depth - plan.out_depth) // 2

    def apply(stacked, origins):
        """Says where each window lies: what it predicts is that, so a window with another's place is seen."""
        z, y, x = jnp.asarray(origins).T[:, :, None, None, None, None] / 8
        return jnp.asarray(stacked[:, first : first + plan.out_depth]) + z * 100 + y * 10 + x

    together = predict_windows(apply, volumes, corners, plan, windows)
    for number in range(tiles):
        alone = predict_windows(apply, volumes[number : number + 1], corners[number : number + 1], plan, windows)
        np.testing.assert_array_equal(together[number], alone[0])


def test_a_call_is_filled_with_z_windows_first():
    plan = plan_windows(depth=9, in_depth=5, out_depth=5)  # five windows
    assert windows_per_call(plan, tiles=10, batch_size=4) == (1, 3)  # two calls of three, not of four and one
    assert windows_per_call(plan, tiles=9, batch_size=16) == (3, 5)
    assert windows_per_call(plan, tiles=4, batch_size=16) == (2, 5)  # two calls of two, not of three and one
    assert windows_per_call(plan, tiles=2, batch_size=16) == (2, 5)


def test_windows_know_where_in_the_stack_they_begin():
    plan, seen = plan_windows(depth=3, in_depth=3, out_depth=1), []

    def apply(stacked, origins):
        seen.extend(origins.tolist())
        return jnp.asarray(stacked[:, 1:2])

    predict_windows(apply, np.zeros((1, 3, 2, 2, 1), np.float32), [(7, -2)], plan, 2)
    assert seen == [[-1, 7, -2], [0, 7, -2], [1, 7, -2], [1, 7, -2]]  # the last one fills the call


def test_too_shallow_stack_names_both_numbers():
    with pytest.raises(UserError, match=r"4 slices.*at least 5"):
        plan_windows(depth=4, in_depth=5, out_depth=5)


def _numbered(plan, plane=(2, 2)):
    """A volume whose every value is its slice number, so that a window tells where it starts."""
    return np.broadcast_to(np.arange(plan.depth, dtype=np.float32)[:, None, None, None], (plan.depth, *plane, 1)), plan


def _lookup(plan, predictions):
    """A network that returns `predictions[i]` for the i-th window, known by the first slice that it predicts."""

    def apply(windows):
        firsts = [int(window[plan.padding[0], 0, 0, 0]) for window in windows]
        return jnp.stack([jnp.asarray(predictions[plan.starts.index(first)], jnp.float32) for first in firsts])

    return apply
