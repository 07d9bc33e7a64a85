"""How far a figure can be trusted: percentile bootstrap over cases, and the paired comparison of two runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from mimzoo.errors import DataError

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]

RESAMPLES = 2000
TAILS = (0.025, 0.975)
# With two cases, every resample is one of three.
FEWEST_CASES = 3
# As many counts are held at a time: 2000 resamples of 2000 cases.
BLOCK = 4_000_000


class Interval(NamedTuple):
    """Where 95 % of the resamples lie; None where there is no saying."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """A figure over `n` cases with its 95 % interval; None where it is undefined or there are too few cases."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Two runs on the same `n` cases: their means, the mean of first - second with its 95 % interval, and a test.

    `wins` counts the cases with the higher value in the first run; of metrics where less is better, those are losses.
    """

    n: int
    mean_first: float
    mean_second: float
    mean_difference: float
    low: float | None
    high: float | None
    p_value: float
    wins: int
    losses: int
    ties: int


def bootstrap(statistic: Statistic, n: int, seed: int = 0) -> Interval:
    """Return the 95 % percentile bootstrap interval of a statistic of `n` cases (Efron 1979).

    `statistic` takes how often each case was drawn, (B, n), and returns B values, NaN where a resample leaves the
    statistic undefined (such as when no case of a class was drawn): those resamples are left out. There are 2000;
    the same seed gives the same interval. Fewer than 3 cases have none.
    """
    if n < FEWEST_CASES:
        return Interval(None, None)
    found = np.concatenate([statistic(drawn) for drawn in _resamples(n, seed)])
    known = found[np.isfinite(found)]
    if not len(known):
        return Interval(None, None)
    low, high = np.quantile(known, TAILS)
    return Interval(float(low), float(high))


def _resamples(n: int, seed: int) -> Iterator[Values]:
    """Yield how often each case was drawn, (B, n), as many resamples at a time as fit the memory."""
    rng = np.random.default_rng(seed)
    at_once = max(BLOCK // n, 1)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        places = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        # (rows * n,) -> (rows, n)
        yield np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def estimate(statistic: Statistic, n: int, seed: int = 0) -> Estimate:
    """Return a statistic of `n` cases, each drawn once, with its bootstrap interval (see `bootstrap`)."""
    value = float(statistic(np.ones((1, n)))[0])
    if not math.isfinite(value):
        return Estimate(None, None, None, n)
    return Estimate(value, *bootstrap(statistic, n, seed), n)


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the 95 % bootstrap interval of the mean of values, one per case; None for fewer than 3."""
    known = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: drawn @ known / len(known), len(known))


def compare_paired(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Return the comparison of two runs by case id, first - second; cases of equal value are ties.

    The interval is that of a bootstrap over cases, which keeps the two values of a case together (None for fewer than
    3 cases). The p value is that of Wilcoxon's signed-rank test, two-sided, without the ties; 1 when all are ties.
    Raises DataError when the runs have different cases or none, or when a value is not a finite number.
    """
    _check_paired(first, second)
    # rounded, so that differences that are equal but for rounding get the same rank
    differences = [round(first[case] - second[case], 12) for case in first]
    apart = [value for value in differences if value]
    low, high = mean_interval(differences)
    return Paired(
        n=len(differences),
        mean_first=math.fsum(first.values()) / len(first),
        mean_second=math.fsum(second.values()) / len(second),
        mean_difference=math.fsum(differences) / len(differences),
        low=low,
        high=high,
        p_value=float(wilcoxon(apart).pvalue) if apart else 1.0,
        wins=sum(value > 0 for value in apart),
        losses=sum(value < 0 for value in apart),
        ties=len(differences) - len(apart),
    )


def _check_paired(first: Mapping[str, float], second: Mapping[str, float]) -> None:
    if not first and not second:
        raise DataError("there are no cases to compare; score both runs on at least one")
    alone = sorted(first.keys() ^ second.keys())
    if alone:
        raise DataError(
            f"only one run has a value for {', '.join(alone[:3])} ({len(alone)} in all); compare runs on the same cases"
        )
    for case in first:
        if not (math.isfinite(first[case]) and math.isfinite(second[case])):
            raise DataError(f"case {case} has a value that is not a number: {first[case]} and {second[case]}")
