"""The scores of many cases summarised: by class, and over the classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from mimzoo.errors import DataError
from mimzoo.metrics.lesions import LesionScores
from mimzoo.metrics.scores import METRICS, Scores
from mimzoo.metrics.statistics import Values, bootstrap, mean_interval

CaseScores = Mapping[str, Scores | None]

SIGNED, UNSIGNED = "volume_difference", "absolute_volume_difference"
SUMMARISED = (*METRICS, UNSIGNED)
# These are undefined where no lesion is large enough to be counted; all others are there if they were asked for.
OPTIONAL = frozenset(LesionScores._fields)


@dataclass(frozen=True)
class Figure:
    """A metric over `n` cases: mean, sample standard deviation, and the 95 % bootstrap interval of the mean.

    The deviation takes two cases and the interval three; else they are None. Over the classes there is no deviation.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class ClassSummary:
    """The metrics of a class by name, over the `n` cases that show it; `n_absent` do not.

    Besides `volume_difference`, whose mean is the bias, in which too much and too little cancel, stands
    `absolute_volume_difference`, in which they do not: the mean of its magnitudes.
    """

    metrics: dict[str, Figure]
    n: int
    n_absent: int


@dataclass(frozen=True)
class Summary:
    """The metrics by name over the classes that any case shows (each counts the same), and every class by name."""

    metrics: dict[str, Figure]
    classes: dict[str, ClassSummary]


def summarise(cases: Mapping[str, CaseScores]) -> Summary:
    """Return the scores of cases (case id -> class name -> scores) summarised by class and over the classes.

    A metric that was not asked for is not among the `metrics`. A class that no case shows has none, and does not enter
    those over the classes; `n_absent` counts it. Intervals resample cases, with all their classes.
    Raises DataError when there is nothing to summarise, when cases differ in their classes or metrics, or when a score
    is not a finite number: none is silently dropped.
    """
    _check_cases(cases)
    names = list(next(iter(cases.values())))
    rows = [{name: _values(found) for name, found in scores.items() if found is not None} for scores in cases.values()]
    classes = {name: _summarise_class([row.get(name) for row in rows]) for name in names}
    if not any(found.n for found in classes.values()):
        raise DataError(f"none of {', '.join(names)} is in the truth or the prediction of any case; check the labels")
    tables = {metric: _table(rows, names, metric) for metric in SUMMARISED}
    return Summary({metric: _over_classes(table) for metric, table in tables.items() if _known(table).any()}, classes)


def _check_cases(cases: Mapping[str, CaseScores]) -> None:
    if not cases:
        raise DataError("there are no scored cases to summarise; score at least one")
    names = next(iter(cases.values())).keys()
    for case, scores in cases.items():
        if scores.keys() != names:
            raise DataError(f"case {case} scores {sorted(scores)}, others {sorted(names)}; score all with one table")
    shown = [(case, name, found) for case, scores in cases.items() for name, found in scores.items() if found]
    for case, name, found in shown:
        if not all(math.isfinite(value) for value in _values(found).values()):
            raise DataError(f"case {case} has a score that is not a number for {name}: {found}")
        if _asked(found) != _asked(shown[0][2]):
            raise DataError(f"case {case} has other metrics than case {shown[0][0]}; score all with one scoring")


def _asked(found: Scores) -> set[str]:
    """Return the metrics that were asked for, as far as they are sure to be there."""
    return _values(found).keys() - OPTIONAL


def _values(found: Scores) -> dict[str, float]:
    """Return the scores that are there, by metric, with the magnitude of the one that is signed."""
    values = {metric: value for metric, value in asdict(found).items() if value is not None}
    return values | ({UNSIGNED: abs(values[SIGNED])} if SIGNED in values else {})


def _summarise_class(cases: Sequence[dict[str, float] | None]) -> ClassSummary:
    shown = [values for values in cases if values is not None]
    columns = {metric: [values[metric] for values in shown if metric in values] for metric in SUMMARISED}
    metrics = {metric: _summarise_values(values) for metric, values in columns.items() if values}
    return ClassSummary(metrics, len(shown), len(cases) - len(shown))


def _summarise_values(values: Sequence[float]) -> Figure:
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    std = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None
    return Figure(mean, std, *mean_interval(values), len(values))


def _table(rows: Sequence[dict[str, dict[str, float]]], names: Sequence[str], metric: str) -> Values:
    """Return a metric of all cases and classes, (cases, classes), NaN where there is no score."""
    return np.array([[row.get(name, {}).get(metric, math.nan) for name in names] for row in rows])


def _over_classes(table: Values) -> Figure:
    """Return the mean over classes of their means over cases, from a table (cases, classes)."""
    shown = table[_known(table).any(axis=1)]
    mean = partial(_mean_of_means, table=shown)
    return Figure(float(mean(np.ones((1, len(shown))))[0]), None, *bootstrap(mean, len(shown)), len(shown))


def _mean_of_means(drawn: Values, table: Values) -> Values:
    """Return, for each resample (B, cases), the mean over the classes that it shows of their means."""
    known = _known(table)
    # (B, cases) @ (cases, classes) -> (B, classes)
    counts, sums = drawn @ known, drawn @ np.where(known, table, 0.0)
    means: Values = (sums / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)
    return means


def _known(table: Values) -> Values:
    return (~np.isnan(table)).astype(np.float64)
