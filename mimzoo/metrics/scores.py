"""The scores of one case, class by class, from label maps or from masks that may overlap."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics.boxes import Box, Mask, box_of, joint
from mimzoo.metrics.lesions import LesionScores, count_difference, score_lesions
from mimzoo.metrics.pairs import Pair, dice, hd95_mm, surface_dice, volume_difference
from mimzoo.recipes import MetricName, Scoring

Labels = NDArray[np.uint8]

METRICS: tuple[str, ...] = get_args(MetricName)


@dataclass(frozen=True)
class Scores:
    """Scores of one class in one case.

    None where a metric was not asked for; the lesion-wise ones (not the count) also where no lesion is large enough
    to be counted and none was made up.
    """

    dice: float | None = None
    hd95_mm: float | None = None
    surface_dice: float | None = None
    volume_difference: float | None = None
    lesion_dice: float | None = None
    lesion_hd95_mm: float | None = None
    lesion_f1: float | None = None
    lesion_count_difference: float | None = None


def score_case(
    prediction: Labels, truth: Labels, spacing_mm: Sequence[float], labels: Mapping[int, str], scoring: Scoring
) -> dict[str, Scores | None]:
    """Return the scores of each class of `labels` by name; None for a class that is in neither map.

    `prediction` and `truth` are (X, Y, Z) label maps on one grid; background (0) is not scored. Which metrics are
    computed, and how, is up to `scoring`. Absent organs: see the head of this package.
    Raises ShapeError for maps or spacing that do not fit, DataError for label values without a name.
    """
    _check_grid(prediction, truth, spacing_mm, np.uint8)
    if not labels or 0 in labels or len(set(labels.values())) < len(labels):
        raise DataError(f"each foreground value (1 or more) needs a name of its own, got {dict(labels)}")
    # one pass over the volumes finds all boxes, however many classes there are
    predicted, true = _boxes("prediction", prediction, labels), _boxes("truth", truth, labels)
    scores: dict[str, Scores | None] = dict.fromkeys(labels.values())
    for value, name in labels.items():
        box = joint(predicted.get(value), true.get(value))
        if box is not None:
            pair = Pair(prediction[box] == value, truth[box] == value, spacing_mm, _diagonal_mm(truth, spacing_mm))
            scores[name] = _score(pair, scoring)
    return scores


def score_masks(
    prediction: Iterable[Mask],
    truth: Iterable[Mask],
    names: Sequence[str],
    spacing_mm: Sequence[float],
    scoring: Scoring,
) -> dict[str, Scores | None]:
    """Return the scores of each class by name; None for a class whose masks are both empty.

    `prediction` and `truth` hold one boolean mask (X, Y, Z) for each of `names`, as an array (K, X, Y, Z) or one after
    the other; they may overlap. Which metrics are computed, and how, is up to `scoring`.
    Raises ShapeError for masks or spacing that do not fit, DataError for names that are not distinct.
    """
    if not names or len(set(names)) < len(names):
        raise DataError(f"each mask needs a name of its own, got {list(names)}")
    scores: dict[str, Scores | None] = {}
    for name, predicted, true in zip_longest(names, prediction, truth):
        if name is None or predicted is None or true is None:
            raise ShapeError(f"each of {', '.join(names)} needs one predicted and one true mask, no more and no fewer")
        scores[name] = _score_mask(predicted, true, spacing_mm, scoring)
    return scores


def _score_mask(prediction: Mask, truth: Mask, spacing_mm: Sequence[float], scoring: Scoring) -> Scores | None:
    _check_grid(prediction, truth, spacing_mm, np.bool_)
    box = joint(box_of(prediction), box_of(truth))
    if box is None:
        return None
    return _score(Pair(prediction[box], truth[box], spacing_mm, _diagonal_mm(truth, spacing_mm)), scoring)


def _check_grid(
    prediction: NDArray[np.generic], truth: NDArray[np.generic], spacing_mm: Sequence[float], kind: type[np.generic]
) -> None:
    if prediction.shape != truth.shape or truth.ndim != 3:
        raise ShapeError(
            f"prediction {prediction.shape} and truth {truth.shape} must be maps (X, Y, Z) of one shape; "
            f"score in the scan's own grid"
        )
    if not {prediction.dtype, truth.dtype} <= {np.dtype(kind)}:
        raise ShapeError(
            f"label maps must be uint8 and masks bool; {np.dtype(kind)} is expected here, "
            f"got {prediction.dtype} (prediction) and {truth.dtype} (truth)"
        )
    if len(spacing_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise ShapeError(f"spacing_mm must be three positive lengths, got {tuple(spacing_mm)}")


def _boxes(role: str, voxels: Labels, labels: Mapping[int, str]) -> dict[int, Box]:
    """Return the smallest box of each label value present; DataError when one has no name."""
    found = {value: box for value, box in enumerate(find_objects(voxels), start=1) if box is not None}
    unknown = sorted(found.keys() - labels.keys())
    if unknown:
        raise DataError(f"the {role} holds the label values {unknown[:5]}, which are not among {sorted(labels)}")
    return found


def _diagonal_mm(voxels: NDArray[np.generic], spacing_mm: Sequence[float]) -> float:
    return math.hypot(*(n * mm for n, mm in zip(voxels.shape, spacing_mm, strict=True)))


def _score(pair: Pair, scoring: Scoring) -> Scores:
    measures: dict[str, Callable[[], float]] = {
        "dice": lambda: dice(pair),
        "hd95_mm": lambda: hd95_mm(pair),
        "surface_dice": lambda: surface_dice(pair, scoring.surface_tolerance_mm),
        "volume_difference": lambda: volume_difference(pair),
        "lesion_count_difference": lambda: count_difference(pair, scoring.lesion_minimum_voxels),
    }
    found: dict[str, float | None] = {name: measures[name]() for name in measures.keys() & set(scoring.metrics)}
    lesion_wise = set(LesionScores._fields) & set(scoring.metrics)
    if lesion_wise:
        # one matching of lesions serves all three
        matched = score_lesions(pair, scoring)._asdict()
        found |= {name: matched[name] for name in lesion_wise}
    return Scores(**found)
