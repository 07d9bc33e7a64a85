"""Lesion by lesion: which were found, how well each was outlined, and how many were made up.

The lesions of BraTS 2023 (Saluja et al., github.com/rachitsaluja/BraTS-2023-Metrics): components are 26-connected;
truth voxels that one dilation joins are one lesion; a predicted component that meets the dilated lesion belongs to it,
and may belong to several; those that meet none are false positives. It differs in three points: HD95 is that of MONAI,
between surface voxels; a missed or made-up lesion has the diagonal of its image as HD95, which for the images of BraTS
is 373 mm, where BraTS always says 374; and the least size is in voxels, and a lesion of just that size is counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure
from scipy.ndimage import label as connect

from mimzoo.metrics.boxes import Box, Mask, joint
from mimzoo.metrics.pairs import Pair, dice, hd95_mm
from mimzoo.recipes import Scoring

Numbers = NDArray[np.int32]

# All 26 neighbours connect; lesions grow across faces and edges, not corners, as in BraTS.
CONNECTED = generate_binary_structure(3, 3)
GROWN = generate_binary_structure(3, 2)


class LesionScores(NamedTuple):
    """Lesion-wise scores of one class in one case; None where nothing is to be counted, or was not asked for."""

    lesion_dice: float | None
    lesion_hd95_mm: float | None
    lesion_f1: float | None


@dataclass(frozen=True)
class Matching:
    """Numbered lesions of the truth and components of the prediction (X, Y, Z), and which of them belong together.

    `partners` maps each lesion that counts to the components that meet it, none where it was missed.
    """

    lesions: Numbers
    components: Numbers
    partners: dict[int, list[int]]
    false_positives: int


def score_lesions(pair: Pair, scoring: Scoring) -> LesionScores:
    """Return the mean Dice and HD95 over lesions and false positives, and the F1 score of detection.

    A missed lesion and a false positive have Dice 0, and as HD95 the diagonal of the image; a lesion is detected when
    a predicted component meets it. F1 = 2 TP / (2 TP + FP + FN) is that of ISLES 2022 where the dilation is 0.
    All are None when no lesion is large enough to count and there is no false positive. HD95 is costly, and computed
    only if `scoring` asks for it.
    """
    found = match_lesions(pair.prediction, pair.truth, scoring.lesion_dilation_voxels, scoring.lesion_minimum_voxels)
    total = len(found.partners) + found.false_positives
    if total == 0:
        return LesionScores(None, None, None)
    wanted = "lesion_hd95_mm" in scoring.metrics
    dices, distances = [], [found.false_positives * pair.diagonal_mm]
    for prediction, truth in _masks(found):
        lesion = replace(pair, prediction=prediction, truth=truth)
        dices.append(dice(lesion))
        if wanted:
            distances.append(hd95_mm(lesion))
    detected = sum(bool(components) for components in found.partners.values())
    return LesionScores(sum(dices) / total, sum(distances) / total if wanted else None, _f1(detected, found))


def _f1(detected: int, found: Matching) -> float:
    missed = len(found.partners) - detected
    return 2 * detected / (2 * detected + found.false_positives + missed)


def match_lesions(prediction: Mask, truth: Mask, dilation_voxels: int, minimum_voxels: int) -> Matching:
    """Return the lesions of the truth with the predicted components that meet them, dilated.

    A lesion of fewer than `minimum_voxels` does not count, and the components that meet it are no false positives.
    Masks cropped to their joint box give the same as whole images: what touches outside of the box touches within.
    """
    reach, _ = _components(_dilate(truth, dilation_voxels))
    components, n_components = _components(prediction)
    lesions = np.where(truth, reach, 0)
    met = _meetings(reach, components)
    sizes = np.bincount(lesions.ravel())
    partners: dict[int, list[int]] = {lesion: [] for lesion in range(1, len(sizes)) if sizes[lesion] >= minimum_voxels}
    for lesion, component in met:
        if lesion in partners:
            partners[lesion].append(component)
    return Matching(lesions, components, partners, n_components - len({component for _, component in met}))


def _components(mask: Mask) -> tuple[Numbers, int]:
    """Return the numbered components (X, Y, Z), from 1, and how many there are."""
    numbers, count = connect(mask, CONNECTED)
    return numbers, int(count)


def _dilate(mask: Mask, voxels: int) -> Mask:
    """Return the mask grown by so many steps; scipy takes 0 steps for as many as change anything."""
    grown: Mask = binary_dilation(mask, GROWN, iterations=voxels) if voxels else mask
    return grown


def _meetings(reach: Numbers, components: Numbers) -> list[tuple[int, int]]:
    """Return which lesion's reach shares a voxel with which component."""
    shared = (reach > 0) & (components > 0)
    pairs: NDArray[Any] = np.unique(np.stack([reach[shared], components[shared]]), axis=1)
    return [(int(lesion), int(component)) for lesion, component in pairs.T]


def _masks(found: Matching) -> Iterator[tuple[Mask, Mask]]:
    """Yield the predicted and the true mask of each lesion that counts, in their joint box."""
    lesion_boxes, component_boxes = find_objects(found.lesions), find_objects(found.components)
    for lesion, components in found.partners.items():
        boxes: list[Box | None] = [lesion_boxes[lesion - 1], *(component_boxes[number - 1] for number in components)]
        box = reduce(joint, boxes)
        yield np.isin(found.components[box], components), found.lesions[box] == lesion


def count_difference(pair: Pair, minimum_voxels: int) -> float:
    """Return by how many the numbers of true and predicted lesions differ, either way.

    Lesions are 26-connected components, undilated, in both masks only those of at least `minimum_voxels`; with a
    minimum of 0 or 1 this is the absolute lesion count difference of ISLES 2022 (Hernandez Petzsche et al. 2022,
    doi 10.1038/s41597-022-01875-5).
    """
    predicted, true = (_count(mask, minimum_voxels) for mask in (pair.prediction, pair.truth))
    return float(abs(predicted - true))


def _count(mask: Mask, minimum_voxels: int) -> int:
    sizes = np.bincount(_components(mask)[0].ravel())[1:]
    return int(np.count_nonzero(sizes >= minimum_voxels))
