"""How well cases are told apart: accuracy, balanced accuracy, AUC, sensitivity of each class, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics.statistics import Estimate, Values, estimate

# Softmax in half precision sums to 1 within this.
NEAR_ONE = 0.02


@dataclass(frozen=True)
class Classification:
    """Figures of a classifier; without a value are those that need a class of which there is no case (`absent`)."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    sensitivity: dict[str, Estimate]
    absent: tuple[str, ...]


def score_classification(
    probabilities: NDArray[np.floating], truth: NDArray[np.integer], names: Sequence[str]
) -> Classification:
    """Return the figures of a classifier from probabilities (N, K) and true class indices (N,), each with an interval.

    The most probable class is the answer (the first in a tie). Balanced accuracy is the mean of the classes'
    sensitivities. The AUC is that of the second of two classes; of more, the mean over each class against the rest.
    A class without a true case has no sensitivity, and no means are formed without it: then balanced accuracy and AUC
    have no value, so that a missing class cannot raise them. Intervals resample cases; see `bootstrap`.
    Raises ShapeError for shapes that do not fit, DataError for values that are no probabilities, for classes that are
    not among the names, and when all cases are of one class.
    """
    _check_shapes(probabilities, truth, names)
    _check_values(probabilities, truth, names)
    scores, n = probabilities.astype(np.float64), len(truth)
    # (N, K), of each case's true class
    is_class = truth[:, None] == np.arange(len(names))
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    ranked = range(len(names)) if len(names) > 2 else [1]
    return Classification(
        accuracy=estimate(lambda drawn: drawn @ right / n, n),
        balanced_accuracy=estimate(lambda drawn: _sensitivities(drawn, right, is_class).mean(axis=1), n),
        auc=estimate(lambda drawn: np.mean([_auc(drawn, scores[:, k], is_class[:, k]) for k in ranked], axis=0), n),
        sensitivity={name: _sensitivity(right, is_class[:, k]) for k, name in enumerate(names)},
        absent=tuple(name for k, name in enumerate(names) if not is_class[:, k].any()),
    )


def _check_shapes(probabilities: NDArray[np.floating], truth: NDArray[np.integer], names: Sequence[str]) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"two classes or more, each with a name of its own, can be told apart, got {list(names)}")
    if truth.ndim != 1 or probabilities.shape != (len(truth), len(names)):
        raise ShapeError(
            f"probabilities {probabilities.shape} and truth {truth.shape} do not fit {len(names)} classes; "
            f"(cases, classes) and (cases,) are needed"
        )


def _check_values(probabilities: NDArray[np.floating], truth: NDArray[np.integer], names: Sequence[str]) -> None:
    if not np.issubdtype(truth.dtype, np.integer) or not np.isin(truth, np.arange(len(names))).all():
        raise DataError(f"true classes must be whole numbers from 0 to {len(names) - 1}, got {np.unique(truth)[:5]}")
    if not np.isfinite(probabilities).all():
        raise DataError("some probabilities are not a number; the model or its input is damaged")
    far = np.abs(probabilities.astype(np.float64).sum(axis=1) - 1).max(initial=0)
    if probabilities.min(initial=0) < 0 or far > NEAR_ONE:
        raise DataError(f"the probabilities of a case must be 0 or more and sum to 1 (off by {far:.3g}); apply softmax")
    if len(np.unique(truth)) < 2:
        given = f"all of class {names[truth[0]]}" if len(truth) else "none"
        raise DataError(f"cases of two classes or more are needed to tell them apart, but these are {given}")


def _sensitivity(right: Values, is_class: NDArray[np.bool_]) -> Estimate:
    """Return the share of right answers among the cases of a class, with an interval over those."""
    of_class = right[is_class]
    n = len(of_class)
    return estimate(lambda drawn: drawn @ of_class / n, n) if n else Estimate(None, None, None, 0)


def _sensitivities(drawn: Values, right: Values, is_class: NDArray[np.bool_]) -> Values:
    """Return the sensitivities of resamples (B, N) as (B, K); NaN for a class of which no case was drawn."""
    with np.errstate(invalid="ignore"):
        shares: Values = (drawn * right) @ is_class / (drawn @ is_class)
    return shares


def _auc(drawn: Values, scores: Values, positive: NDArray[np.bool_]) -> Values:
    """Return the areas under the ROC curve of resamples (B, N); NaN without a positive or without a negative case.

    The share of pairs of a positive and a negative case in which the positive one has the higher score; ties count
    half (Hanley and McNeil 1982, doi 10.1148/radiology.143.1.7063747). MONAI's compute_roc_auc gives the same.
    """
    order = np.argsort(scores)
    # (B, N) -> (B, distinct scores)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positives = np.add.reduceat((drawn * positive)[:, order], starts, axis=1)
    negatives = np.add.reduceat((drawn * ~positive)[:, order], starts, axis=1)
    below = negatives.cumsum(axis=1) - negatives / 2
    with np.errstate(invalid="ignore"):
        area: Values = (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))
    return area
