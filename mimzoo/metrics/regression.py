"""How well numbers are predicted: mean absolute error, root mean square error, R² and Pearson's r, with intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics.statistics import Estimate, Values, estimate

# Less spread than this share of the mean square is rounding: all values are equal.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Regression:
    """Figures of a regressor; the errors are in the unit of the target."""

    mean_absolute_error: Estimate
    root_mean_square_error: Estimate
    r2: Estimate
    pearson_r: Estimate


def score_regression(prediction: NDArray[np.floating], truth: NDArray[np.floating]) -> Regression:
    """Return the figures of a regressor from predicted and true values, both (N,), each with an interval over cases.

    R² = 1 - squared errors / squared deviations of the truth from its mean; it is negative for what is worse than that
    mean, and undefined (no value) where the truth is constant. Pearson's r is undefined where either is.
    Raises ShapeError for shapes that do not fit, DataError for no cases and for values that are not finite.
    """
    if prediction.shape != truth.shape or truth.ndim != 1:
        raise ShapeError(f"prediction {prediction.shape} and truth {truth.shape} must be of one shape (cases,)")
    if not len(truth):
        raise DataError("there are no cases to score; give at least one")
    if not (np.isfinite(prediction).all() and np.isfinite(truth).all()):
        raise DataError("some predicted or true values are not a number; the model or the table of targets is damaged")
    found, true, n = prediction.astype(np.float64), truth.astype(np.float64), len(truth)
    error = found - true
    return Regression(
        mean_absolute_error=estimate(lambda drawn: drawn @ np.abs(error) / n, n),
        root_mean_square_error=estimate(lambda drawn: np.sqrt(drawn @ error**2 / n), n),
        r2=estimate(lambda drawn: 1 - drawn @ error**2 / (n * _variance(drawn, true)), n),
        pearson_r=estimate(lambda drawn: _pearson(drawn, found, true), n),
    )


def _pearson(drawn: Values, found: Values, true: Values) -> Values:
    """Return Pearson's r of resamples (B, N); NaN where all predicted or all true values are equal."""
    n, a, b = len(true), _centred(found), _centred(true)
    covariance: Values = drawn @ (a * b) / n - (drawn @ a / n) * (drawn @ b / n)
    return covariance / np.sqrt(_variance(drawn, found) * _variance(drawn, true))


def _variance(drawn: Values, values: Values) -> Values:
    """Return the variances (divided by N) of resamples (B, N); NaN where all values are equal."""
    n, about = len(values), _centred(values)
    squares = drawn @ about**2 / n
    variance = squares - (drawn @ about / n) ** 2
    return np.where(variance > ROUNDING * squares, variance, np.nan)


def _centred(values: Values) -> Values:
    """Return values about the mean of all, so that little is lost where they are large and close."""
    centred: Values = values - values.mean()
    return centred
