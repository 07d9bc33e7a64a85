"""Bootstrap intervals against scipy and by how often they hold the truth; paired comparisons against enumeration."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mimzoo.errors import DataError
from mimzoo.metrics import Estimate, Interval, bootstrap, compare_paired, estimate
from mimzoo.metrics.statistics import BLOCK, mean_interval

VALUES = np.random.default_rng(0).gamma(2.0, size=25)


def mean_of(values):
    return lambda drawn: drawn @ values / len(values)


# --- bootstrap --------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_equals_scipy():
    reference = stats.bootstrap((VALUES,), np.mean, n_resamples=50_000, method="percentile", rng=1)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert mean_interval(VALUES) == pytest.approx(tuple(reference.confidence_interval), abs=0.05 * width)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [mean_interval(rng.normal(3.0, 2.0, size=30)) for _ in range(400)]
    held = sum(low <= 3.0 <= high for low, high in found) / len(found)
    # 95 % but for the small sample, give or take three standard errors
    assert 0.90 <= held <= 0.975


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly():
    once, twice, other = (bootstrap(mean_of(VALUES), len(VALUES), seed) for seed in (0, 0, 1))
    assert once == twice != other
    assert once == pytest.approx(other, rel=0.1)


def test_every_resample_draws_as_many_cases_as_there_are():
    drawn = []

    def keep(counts):
        drawn.append(counts)
        return counts[:, 0]

    bootstrap(keep, 7)
    counts = np.concatenate(drawn)
    assert counts.shape == (2000, 7)
    assert (counts.sum(axis=1) == 7).all() and counts.min() == 0
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)


def test_many_cases_are_resampled_in_blocks():
    sizes = []

    def keep(counts):
        sizes.append(counts.size)
        return counts[:, 0]

    bootstrap(keep, 5000)
    assert sum(sizes) == 2000 * 5000 and len(sizes) > 1 and max(sizes) <= BLOCK


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_cases_have_no_interval(n):
    assert mean_interval(VALUES[:n]) == Interval(None, None)
    assert None not in mean_interval(VALUES[:3])


def test_resamples_without_a_value_are_left_out():
    # The share of cases of the first kind among those drawn of the first two, where any is.
    def share(drawn):
        with np.errstate(invalid="ignore"):
            return drawn[:, 0] / (drawn[:, 0] + drawn[:, 1])

    assert bootstrap(share, 3) == Interval(0.0, 1.0)
    assert bootstrap(lambda drawn: np.full(len(drawn), np.nan), 3) == Interval(None, None)


def test_an_estimate_is_of_each_case_once():
    found = estimate(mean_of(VALUES), len(VALUES))
    assert found == Estimate(pytest.approx(VALUES.mean()), *mean_interval(VALUES), len(VALUES))
    assert estimate(lambda drawn: drawn[:, 0] * np.nan, 4) == Estimate(None, None, None, 4)


def test_equal_values_leave_no_doubt():
    assert mean_interval([0.5] * 9) == pytest.approx((0.5, 0.5))


# --- paired comparison ------------------------------------------------------------------------------------------------


def runs(first, second):
    return [{f"case {n}": value for n, value in enumerate(values)} for values in (first, second)]


def signed_rank_p(differences):
    """The share of all signs of the differences that give a rank sum at least as far from its middle."""
    ranks = stats.rankdata(np.abs(differences))
    seen = abs(ranks[np.array(differences) > 0].sum() - ranks.sum() / 2)
    signs = np.array(list(itertools.product([False, True], repeat=len(ranks))))
    return np.mean(np.abs(signs @ ranks - ranks.sum() / 2) >= seen - 1e-9)


def test_two_runs_are_compared_case_by_case():
    found = compare_paired(*runs([0.8, 0.7, 0.9, 0.5, 0.6], [0.7, 0.75, 0.7, 0.5, 0.3]))
    assert (found.n, found.wins, found.losses, found.ties) == (5, 3, 1, 1)
    assert (found.mean_first, found.mean_second) == pytest.approx((0.7, 0.59))
    assert found.mean_difference == pytest.approx(0.11)
    assert (found.low, found.high) == pytest.approx(mean_interval([0.1, -0.05, 0.2, 0.0, 0.3]))
    assert found.p_value == pytest.approx(signed_rank_p([0.1, -0.05, 0.2, 0.3]))


def test_the_order_of_the_cases_does_not_matter_to_their_pairs():
    first, second = runs([0.1, 0.5, 0.9, 0.3], [0.2, 0.4, 0.7, 0.3])
    assert compare_paired(first, second) == compare_paired(first, dict(reversed(second.items())))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=10, unique_by=abs).filter(lambda found: 0 not in found))
def test_the_p_value_equals_enumeration(differences):
    found = compare_paired(*runs(np.array(differences) / 1000, np.zeros(len(differences))))
    assert found.p_value == pytest.approx(signed_rank_p(differences))


def test_exchanged_runs_give_the_mirror_image():
    first, second = runs(VALUES, VALUES[::-1] ** 2)
    forth, back = compare_paired(first, second), compare_paired(second, first)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert (back.wins, back.losses, back.p_value) == (forth.losses, forth.wins, pytest.approx(forth.p_value))


def test_pairs_are_kept_together():
    # The same gain in cases that differ a lot: the means are far from certain, their difference is certain.
    found = compare_paired(*runs(VALUES + 0.1, VALUES))
    assert (found.mean_difference, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p_value < 1e-4


def test_equal_runs_do_not_differ():
    found = compare_paired(*runs(VALUES, VALUES))
    assert (found.p_value, found.ties, found.mean_difference, found.low, found.high) == (1.0, len(VALUES), 0, 0, 0)


def test_two_cases_are_compared_without_an_interval():
    found = compare_paired(*runs([0.5, 0.6], [0.4, 0.3]))
    assert (found.low, found.high, found.p_value) == (None, None, 0.5)


def test_differences_that_only_rounding_tells_apart_rank_alike():
    # 0.3 - 0.2, 0.2 - 0.1 and 0.8 - 0.7 differ in their last bits.
    found = compare_paired(*runs([0.3, 0.2, 0.8, 0.1], [0.2, 0.1, 0.7, 0.2]))
    assert found.p_value == stats.wilcoxon([1, 1, 1, -1]).pvalue


def test_a_comparison_is_plain_numbers():
    found = asdict(compare_paired(*runs([0.5, 0.6, 0.7], [0.4, 0.3, 0.9])))
    assert {type(value) for value in found.values()} == {int, float}


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({}, {}, "no cases"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}, r"only one run has a value for b \(1 in all\)"),
        ({"a": 1.0}, {"b": 1.0}, r"a, b \(2 in all\)"),
        ({"a": 1.0}, {}, "a"),
        ({"a": math.nan}, {"a": 1.0}, "case a .* not a number"),
        ({"a": 1.0}, {"a": math.inf}, "case a .* not a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, says):
    with pytest.raises(DataError, match=says):
        compare_paired(first, second)
