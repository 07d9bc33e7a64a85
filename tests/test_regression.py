"""Figures of regressors against MONAI and numpy, by hand, and over resamples drawn one by one."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from monai.metrics import MAEMetric, RMSEMetric

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics import Estimate, score_regression

RNG = np.random.default_rng(0)
AGES = RNG.uniform(20, 90, size=40)
GUESSES = AGES + RNG.normal(3, 8, size=40)


def r2(prediction, truth):
    return 1 - ((prediction - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


def test_figures_by_hand():
    found = score_regression(np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.0, 2.0 + 3.0]))
    assert found.mean_absolute_error.value == pytest.approx(1 / 3)
    assert found.root_mean_square_error.value == pytest.approx((1 / 3) ** 0.5)
    assert found.r2.value == pytest.approx(1 - 1 / 6)
    assert found.pearson_r.value == pytest.approx(7 / (26 / 3 * 6) ** 0.5)
    assert found.r2.n == 3


def test_errors_equal_monai():
    pair = [torch.from_numpy(values)[:, None] for values in (GUESSES, AGES)]
    found = score_regression(GUESSES, AGES)
    assert found.mean_absolute_error.value == pytest.approx(MAEMetric()(*pair).mean().item(), abs=1e-6)
    # MONAI takes the root per case; over all cases as one, it is the same figure.
    whole = RMSEMetric()(*(values.T for values in pair)).item()
    assert found.root_mean_square_error.value == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_r2_and_pearson_equal_numpy_however_large_the_values(offset):
    found = score_regression(GUESSES + offset, AGES + offset)
    assert found.r2.value == pytest.approx(r2(GUESSES, AGES), rel=1e-6)
    assert found.pearson_r.value == pytest.approx(np.corrcoef(GUESSES, AGES)[0, 1], rel=1e-6)


def test_intervals_equal_those_of_resamples_drawn_one_by_one():
    rng, values = np.random.default_rng(5), []
    for _ in range(4000):
        drawn = rng.integers(40, size=40)
        p, t = GUESSES[drawn], AGES[drawn]
        values.append((np.abs(p - t).mean(), ((p - t) ** 2).mean() ** 0.5, r2(p, t), np.corrcoef(p, t)[0, 1]))
    expected = np.quantile(values, [0.025, 0.975], axis=0).T
    for figure, (low, high) in zip(vars(score_regression(GUESSES, AGES)).values(), expected, strict=True):
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_worse_than_the_mean_is_below_zero():
    found = score_regression(AGES[::-1].copy(), AGES)
    assert found.r2.value < 0


@pytest.mark.parametrize("constant", [50.0, 0.1, 0.0])
def test_a_constant_answer_correlates_with_nothing(constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_regression(np.full(40, constant), AGES)
    assert found.pearson_r == Estimate(None, None, None, 40)
    assert found.r2.value == pytest.approx(r2(constant, AGES))


def test_a_constant_truth_has_no_variance_to_explain():
    found = score_regression(GUESSES, np.full(40, 0.1))
    assert found.r2 == found.pearson_r == Estimate(None, None, None, 40)
    assert found.mean_absolute_error.low < found.mean_absolute_error.value


def test_resamples_of_a_single_case_do_not_blow_up_the_interval():
    # One resample in nine of three cases repeats a single one, whose variance is nothing but rounding.
    truth = np.array([0.1, 0.7, 1.3])
    found = score_regression(truth + 1e-3, truth)
    assert found.r2.low > 0.9 and found.pearson_r.low == pytest.approx(1.0)


def test_a_single_case_has_errors_alone():
    found = score_regression(np.array([2.0]), np.array([5.0]))
    assert found.mean_absolute_error == found.root_mean_square_error == Estimate(3.0, None, None, 1)
    assert found.r2 == found.pearson_r == Estimate(None, None, None, 1)


def test_figures_are_plain_json_and_the_same_each_time():
    once, twice = (json.dumps(asdict(score_regression(GUESSES, AGES)), allow_nan=False) for _ in range(2))
    assert once == twice


@pytest.mark.parametrize(
    ("prediction", "truth", "error", "says"),
    [
        (np.zeros(3), np.zeros(4), ShapeError, r"\(3,\) and truth \(4,\)"),
        (np.zeros((3, 1)), np.zeros((3, 1)), ShapeError, r"one shape \(cases,\)"),
        (np.zeros(0), np.zeros(0), DataError, "no cases"),
        (np.array([1.0, np.nan]), np.zeros(2), DataError, "not a number"),
        (np.zeros(2), np.array([1.0, np.inf]), DataError, "not a number"),
    ],
)
def test_what_cannot_be_scored_is_refused(prediction, truth, error, says):
    with pytest.raises(error, match=says):
        score_regression(prediction, truth)
