"""What a validation says, against NumPy; what is undefined is NaN, and NaN is never best."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vsjax.errors import UserError
from vsjax.runtime.description import Progress
from vsjax.tasks.registry import find_metric
from vsjax.tasks.task import MetricSpec
from vsjax.training.averages import average_batch, judge, mean_of_batches

SPECS = {
    "loss": MetricSpec(),
    "pearson": MetricSpec(maximise=True, columns=("nuclei", "membrane"), partial=True),
}


def batch(loss, pearson, weight=None):
    weight = np.ones(len(loss)) if weight is None else np.asarray(weight, np.float32)
    return average_batch(SPECS, {"loss": jnp.asarray(loss), "pearson": jnp.asarray(pearson)}, weight)


def test_samples_count_once_and_fillers_never():
    rng = np.random.default_rng(0)
    loss, pearson = rng.random(7).astype(np.float32), rng.random((7, 2)).astype(np.float32)
    filled = batch(np.r_[loss[4:], 99], np.r_[pearson[4:], [[99, 99]]], [1, 1, 1, 0])
    found = mean_of_batches(SPECS, [batch(loss[:4], pearson[:4]), filled], "run")
    expected = {"loss": loss.mean(), "pearson/nuclei": pearson[:, 0].mean(), "pearson/membrane": pearson[:, 1].mean()}
    expected["pearson"] = pearson.mean()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_sample_that_leaves_a_metric_undefined_does_not_count():
    pearson = np.array([[0.5, math.nan], [0.7, math.nan]])
    found = mean_of_batches(SPECS, [batch(np.ones(2), pearson), batch(np.ones(1), [[math.nan, math.nan]])], "run")
    assert found["pearson/nuclei"] == pytest.approx(0.6)
    assert math.isnan(found["pearson/membrane"])  # the mean of nothing
    assert found["pearson"] == pytest.approx(0.6)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(loss):
    with pytest.raises(UserError, match=r"runs/a: step 7: validation's loss is (nan|inf).*learning_rate"):
        mean_of_batches(SPECS, [batch([1.0, loss], np.ones((2, 2)))], "runs/a: step 7")


def test_better_is_what_the_metric_says():
    loss, pearson = SPECS["loss"], find_metric(SPECS, "pearson/nuclei", "regression")

    def is_best(score, best, spec):
        after, better = judge(Progress(best=best), score, spec, patience=2)
        assert after == Progress(best=score if better else best, stale=0 if better else 1)
        return better

    assert is_best(0.2, 0.3, loss)
    assert not is_best(0.3, 0.2, loss)
    assert is_best(0.3, 0.2, pearson)
    assert not is_best(0.2, 0.3, pearson)
    for spec in (loss, pearson):
        assert is_best(1.0, None, spec)
        assert not any(is_best(value, best, spec) for value in (math.nan, math.inf) for best in (None, 0.5))
    assert judge(Progress(best=0.5, stale=1), math.nan, loss, patience=2)[0].finished
    assert not judge(Progress(best=0.5, stale=1), math.nan, loss, patience=0)[0].finished


@pytest.mark.parametrize("name", ["spearman", "pearson/lipids", "loss/nuclei"])
def test_a_metric_that_is_not_there(name):
    with pytest.raises(UserError, match=f"best='{name}' is not a metric of regression; choose one of loss, pearson"):
        find_metric(SPECS, name, "regression")
