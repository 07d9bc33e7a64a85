"""Figures of classifiers against MONAI, by hand, and over resamples drawn one by one."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_confusion_matrix_metric, compute_roc_auc, get_confusion_matrix

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics import Estimate, score_classification

TWO, THREE = ("healthy", "ill"), ("low", "middle", "high")


def answers(seed, classes, n=60, decimals=6):
    """Random probabilities that know a little of the true classes, each of which occurs; few decimals make ties."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # rounded in all classes but the last, which takes the rest, so that each case still sums to 1
    rounded = np.round(shares[:, :-1], decimals)
    return np.concatenate([rounded, np.clip(1 - rounded.sum(1, keepdims=True), 0, 1)], 1), truth


def of_second(*positive):
    """Probabilities of two classes, from those of the second."""
    second = np.array(positive, np.float64)
    return np.stack([1 - second, second], axis=1)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_two_classes_by_hand():
    found = score_classification(of_second(0.9, 0.2, 0.6, 0.4, 0.1), np.array([1, 1, 0, 0, 0]), TWO)
    assert found.accuracy.value == pytest.approx(3 / 5)
    assert (found.sensitivity["healthy"].value, found.sensitivity["ill"].value) == pytest.approx((2 / 3, 1 / 2))
    assert found.balanced_accuracy.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Of the six pairs, 0.9 wins three and 0.2 one.
    assert found.auc.value == pytest.approx(4 / 6)
    assert [found.sensitivity[name].n for name in TWO] == [3, 2]
    assert (found.accuracy.n, found.absent) == (5, ())


def test_ties_count_half_in_the_auc():
    found = score_classification(of_second(0.5, 0.5, 0.5, 0.3), np.array([1, 0, 1, 0]), TWO)
    assert found.auc.value == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)
    assert score_classification(of_second(0.4, 0.4, 0.4), np.array([0, 1, 1]), TWO).auc.value == 0.5


def test_the_first_of_equally_probable_classes_is_the_answer():
    found = score_classification(of_second(0.5, 0.5), np.array([0, 1]), TWO)
    assert [found.sensitivity[name].value for name in TWO] == [1.0, 0.0]


def test_perfect_answers_leave_no_doubt():
    found = score_classification(np.eye(3)[[0, 1, 2, 0, 1, 2]], np.array([0, 1, 2, 0, 1, 2]), THREE)
    for figure in (found.accuracy, found.balanced_accuracy, found.auc):
        assert figure == Estimate(*[pytest.approx(1.0)] * 3, 6)


# --- MONAI ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([1, 6]))
def test_auc_of_two_classes_equals_monai(seed, decimals):
    probabilities, truth = answers(seed, 2, decimals=decimals)
    expected = compute_roc_auc(torch.from_numpy(probabilities[:, 1]), torch.from_numpy(truth))
    assert score_classification(probabilities, truth, TWO).auc.value == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([1, 6]))
def test_auc_of_more_classes_is_the_mean_of_each_against_the_rest_as_in_monai(seed, decimals):
    probabilities, truth = answers(seed, 3, decimals=decimals)
    onehot = torch.eye(3, dtype=torch.long)[torch.from_numpy(truth)]
    expected = compute_roc_auc(torch.from_numpy(probabilities), onehot, average="macro")
    assert score_classification(probabilities, truth, THREE).auc.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_and_sensitivities_equal_monai(seed):
    probabilities, truth = answers(seed, 3)
    onehot = [torch.eye(3)[torch.from_numpy(classes)] for classes in (probabilities.argmax(1), truth)]
    counts = get_confusion_matrix(*onehot).sum(0)
    sensitivity = compute_confusion_matrix_metric("sensitivity", counts).numpy()
    found = score_classification(probabilities, truth, THREE)
    assert [figure.value for figure in found.sensitivity.values()] == pytest.approx(sensitivity, abs=1e-6)
    assert found.balanced_accuracy.value == pytest.approx(sensitivity.mean(), abs=1e-6)
    assert found.accuracy.value == pytest.approx(counts[:, 0].sum().item() / len(truth), abs=1e-6)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_equal_those_of_resamples_drawn_one_by_one():
    probabilities, truth = answers(1, 2, n=40)
    rng, aucs, rights = np.random.default_rng(5), [], []
    for _ in range(1500):
        drawn = rng.integers(len(truth), size=len(truth))
        aucs.append(compute_roc_auc(torch.from_numpy(probabilities[drawn, 1]), torch.from_numpy(truth[drawn])))
        rights.append((probabilities[drawn].argmax(1) == truth[drawn]).mean())
    found = score_classification(probabilities, truth, TWO)
    for figure, values in ((found.auc, aucs), (found.accuracy, rights)):
        assert (figure.low, figure.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


def test_the_interval_of_a_sensitivity_is_over_the_cases_of_its_class():
    probabilities = of_second(*[0.9] * 8, *[0.1] * 8, 0.9, 0.1)
    found = score_classification(probabilities, np.array([1] * 16 + [0, 0]), TWO)
    ill, healthy = found.sensitivity["ill"], found.sensitivity["healthy"]
    # 8 of 16, and two cases, which have no interval
    assert (ill.value, ill.low, ill.high, ill.n) == (0.5, 0.25, 0.75, 16)
    assert (healthy.value, healthy.low, healthy.high, healthy.n) == (0.5, None, None, 2)


def test_the_same_answers_give_the_same_figures():
    assert score_classification(*answers(2, 3), THREE) == score_classification(*answers(2, 3), THREE)


def test_a_class_of_a_single_case_is_scored_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_classification(of_second(0.1, 0.2, 0.3, 0.9), np.array([0, 0, 0, 1]), TWO)
    assert (found.auc.value, found.auc.low, found.auc.high) == (1.0, 1.0, 1.0)


# --- classes without cases --------------------------------------------------------------------------------------------


def test_a_missing_class_leaves_no_mean_that_it_could_raise():
    probabilities, truth = answers(3, 3)
    kept = truth != 1
    found = score_classification(probabilities[kept], truth[kept], THREE)
    nothing = Estimate(None, None, None, kept.sum())
    assert (found.absent, found.auc, found.balanced_accuracy) == (("middle",), nothing, nothing)
    assert found.sensitivity["middle"] == Estimate(None, None, None, 0)
    assert 0 < found.sensitivity["low"].value < 1
    assert found.accuracy.value == pytest.approx((probabilities[kept].argmax(1) == truth[kept]).mean())


def test_figures_are_plain_json():
    probabilities, truth = answers(3, 3)
    found = asdict(score_classification(probabilities[truth != 1], truth[truth != 1], THREE))
    assert json.loads(json.dumps(found, allow_nan=False))["absent"] == ["middle"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"names": ("ill",), "probabilities": np.ones((3, 1))}, DataError, r"two classes or more.*\['ill'\]"),
        ({"names": ("ill", "ill")}, DataError, "a name of its own"),
        ({"names": THREE}, ShapeError, r"\(3, 2\).*3 classes"),
        ({"truth": np.array([0, 1])}, ShapeError, r"truth \(2,\)"),
        ({"truth": np.array([[0], [1], [1]])}, ShapeError, r"truth \(3, 1\)"),
        ({"truth": np.array([0, 1, 2])}, DataError, "from 0 to 1"),
        ({"truth": np.array([0, -1, 1])}, DataError, "from 0 to 1"),
        ({"truth": np.array([0.0, 1.0, 1.0])}, DataError, "whole numbers"),
        ({"truth": np.array([1, 1, 1])}, DataError, "all of class ill"),
        ({"truth": np.zeros(0, int), "probabilities": np.zeros((0, 2))}, DataError, "these are none"),
        ({"probabilities": of_second(0.1, np.nan, 0.3)}, DataError, "not a number"),
        ({"probabilities": of_second(0.1, 1.5, 0.3)}, DataError, "apply softmax"),
        ({"probabilities": np.ones((3, 2))}, DataError, r"off by 1\); apply softmax"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, error, says):
    good = {"probabilities": of_second(0.1, 0.5, 0.9), "truth": np.array([0, 1, 1]), "names": TWO}
    with pytest.raises(error, match=says):
        score_classification(**good | change)


def test_half_precision_is_taken():
    probabilities, truth = answers(4, 3)
    found = score_classification(probabilities.astype(np.float16), truth, THREE)
    assert found.auc.value == pytest.approx(score_classification(probabilities, truth, THREE).auc.value, abs=0.01)
