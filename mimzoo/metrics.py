"""Segmentation scores in the scan's own grid, in mm: Dice, HD95 and surface Dice of every foreground class.

Policy for absent organs, the same for all three scores:
- absent in truth and prediction: no score (None), left out of the means and counted as `n_absent`;
- present in only one of them: Dice 0, surface Dice 0, HD95 the diagonal of the image in mm, so that a missed organ
  can never raise a mean.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from mimzoo.errors import DataError, ShapeError

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of one class in one case; the distances are None where they were not asked for."""

    dice: float
    hd95_mm: float | None = None
    surface_dice: float | None = None


METRICS = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class ClassSummary:
    """Means and sample standard deviations over the `n` cases that show a class; None where there are too few."""

    dice: float | None
    dice_std: float | None
    hd95_mm: float | None
    hd95_mm_std: float | None
    surface_dice: float | None
    surface_dice_std: float | None
    n: int
    n_absent: int


@dataclass(frozen=True)
class Summary:
    """Means over the foreground classes that any case shows (each counts the same), and every class by name."""

    dice: float
    hd95_mm: float | None
    surface_dice: float | None
    classes: dict[str, ClassSummary]


def score_case(
    prediction: Labels,
    truth: Labels,
    spacing_mm: Sequence[float],
    labels: Mapping[int, str],
    tolerance_mm: float | None,
) -> dict[str, Scores | None]:
    """Return the scores of each class of `labels` by name; None for a class that is in neither map.

    `prediction` and `truth` are (X, Y, Z) label maps on one grid; background (0) is not scored. HD95 is the larger of
    the two 95th percentiles of surface distances. Surface Dice is the share of both surfaces, weighted by area, that
    lies within `tolerance_mm` of the other (Nikolov et al. 2018, arXiv:1809.04430). With `tolerance_mm` None both are
    left out, which is fast. Absent organs: see the head of this module. HD95 and surface Dice are computed by MONAI.
    Raises ShapeError for maps or spacing that do not fit, DataError for label values without a name.
    """
    _check_case(prediction, truth, spacing_mm, tolerance_mm)
    _check_names(labels)
    boxes = _joint(_boxes("prediction", prediction, labels), _boxes("truth", truth, labels))
    diagonal_mm = math.hypot(*(n * mm for n, mm in zip(truth.shape, spacing_mm, strict=True)))
    scores: dict[str, Scores | None] = dict.fromkeys(labels.values())
    for value, box in boxes.items():
        masks = prediction[box] == value, truth[box] == value
        scores[labels[value]] = _score(*masks, spacing_mm, tolerance_mm, diagonal_mm)
    return scores


def _check_case(prediction: Labels, truth: Labels, spacing_mm: Sequence[float], tolerance_mm: float | None) -> None:
    if prediction.shape != truth.shape or truth.ndim != 3:
        raise ShapeError(
            f"prediction {prediction.shape} and truth {truth.shape} must be maps (X, Y, Z) of one shape; "
            f"score in the scan's own grid"
        )
    if not {prediction.dtype, truth.dtype} <= {np.dtype(np.uint8)}:
        raise ShapeError(f"label maps must be uint8, got {prediction.dtype} (prediction) and {truth.dtype} (truth)")
    if len(spacing_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise ShapeError(f"spacing_mm must be three positive lengths, got {tuple(spacing_mm)}")
    if tolerance_mm is not None and not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ShapeError(f"tolerance_mm must be a length of 0 or more, got {tolerance_mm}")


def _check_names(labels: Mapping[int, str]) -> None:
    if not labels or 0 in labels or len(set(labels.values())) < len(labels):
        raise DataError(f"each foreground value (1 or more) needs a name of its own, got {dict(labels)}")


def _boxes(role: str, voxels: Labels, labels: Mapping[int, str]) -> dict[int, Box]:
    """Return the smallest box of each label value present; DataError when one has no name."""
    found = {value: box for value, box in enumerate(find_objects(voxels), start=1) if box is not None}
    unknown = sorted(found.keys() - labels.keys())
    if unknown:
        raise DataError(f"the {role} holds the label values {unknown[:5]}, which are not among {sorted(labels)}")
    return found


def _joint(a: dict[int, Box], b: dict[int, Box]) -> dict[int, Box]:
    return {value: _union(a.get(value) or b[value], b.get(value) or a[value]) for value in a.keys() | b.keys()}


def _union(a: Box, b: Box) -> Box:
    return tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))


def _score(
    prediction: Mask, truth: Mask, spacing_mm: Sequence[float], tolerance_mm: float | None, diagonal_mm: float
) -> Scores:
    both, total = int((prediction & truth).sum()), int(prediction.sum()) + int(truth.sum())
    dice = 2 * both / total
    if tolerance_mm is None:
        return Scores(dice)
    if not (prediction.any() and truth.any()):
        return Scores(dice, diagonal_mm, 0.0)
    return Scores(dice, *_distances(prediction, truth, spacing_mm, tolerance_mm))


def _distances(prediction: Mask, truth: Mask, spacing_mm: Sequence[float], tolerance_mm: float) -> tuple[float, float]:
    """Return (HD95 in mm, surface Dice) of two masks in their joint box, neither of them empty.

    MONAI pads the box with background, so that cropping to it changes nothing, at the border of the image too.
    """
    # (X, Y, Z) -> (B=1, C=1, X, Y, Z)
    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, truth)]
    spacing = [float(mm) for mm in spacing_mm]
    with _without_monai_notice():
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        # Subvoxel: surface elements count by their area in mm², which voxel counts get wrong on anisotropic grids.
        near = compute_surface_dice(
            *pair, [float(tolerance_mm)], include_background=True, spacing=spacing, use_subvoxels=True
        )
    return hd95.item(), near.item()


@contextmanager
def _without_monai_notice() -> Iterator[None]:
    with warnings.catch_warnings():
        # MONAI warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        yield


def summarise(cases: Mapping[str, Mapping[str, Scores | None]]) -> Summary:
    """Return the scores of cases (case id -> class name -> scores) summarised by class and over the classes.

    A class that no case shows has no means and does not enter those over the classes; `n_absent` counts it.
    Raises DataError when there is nothing to summarise, when cases differ in their classes, or when a score is not a
    finite number: none is silently dropped.
    """
    _check_cases(cases)
    names = next(iter(cases.values())).keys()
    classes = {name: _summarise_class([scores[name] for scores in cases.values()]) for name in names}
    shown = [found for found in classes.values() if found.n]
    if not shown:
        raise DataError(f"none of {', '.join(names)} is in the truth or the prediction of any case; check the labels")
    means: dict[str, Any] = {key: _mean([getattr(found, key) for found in shown]) for key in METRICS}
    return Summary(**means, classes=classes)


def _check_cases(cases: Mapping[str, Mapping[str, Scores | None]]) -> None:
    if not cases:
        raise DataError("there are no scored cases to summarise; score at least one")
    names = next(iter(cases.values())).keys()
    for case, scores in cases.items():
        if scores.keys() != names:
            raise DataError(f"case {case} scores {sorted(scores)}, others {sorted(names)}; score all with one table")
        for name, found in scores.items():
            if found is not None and not all(math.isfinite(value) for value in _values(found)):
                raise DataError(f"case {case} has a score that is not a number for {name}: {found}")


def _values(scores: Scores) -> list[float]:
    return [value for value in (getattr(scores, key) for key in METRICS) if value is not None]


def _summarise_class(scores: Sequence[Scores | None]) -> ClassSummary:
    shown = [found for found in scores if found is not None]
    figures: dict[str, Any] = {}
    for key in METRICS:
        values = [getattr(found, key) for found in shown]
        figures |= {key: _mean(values), f"{key}_std": _deviation(values)}
    return ClassSummary(**figures, n=len(shown), n_absent=len(scores) - len(shown))


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None when there is no value, or when distances were not asked for in some case."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _deviation(values: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation (n - 1); None for fewer than two values."""
    mean = _mean(values)
    if mean is None or len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values if value is not None) / (len(values) - 1))
