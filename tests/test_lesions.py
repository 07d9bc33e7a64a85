"""Lesion-wise scores by hand, and against a brute force that walks from voxel to voxel."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mimzoo.metrics import METRICS, Scores, score_masks
from mimzoo.recipes import Scoring

LESION_WISE = ("lesion_dice", "lesion_hd95_mm", "lesion_f1", "lesion_count_difference")
SHAPE = (40, 12, 12)
MM = (1.0, 2.0, 0.5)
DIAGONAL = math.sqrt(40**2 + 24**2 + 6**2)


def rods(*spans):
    """A mask of rods along X, each from a first to before a last voxel, at Y = Z = 5 unless it says otherwise."""
    mask = np.zeros(SHAPE, bool)
    for start, stop, *at in spans:
        y, z = at or (5, 5)
        mask[start:stop, y, z] = True
    return mask


def score(prediction, truth, dilation=0, minimum=0, spacing_mm=MM):
    scoring = Scoring(metrics=LESION_WISE, lesion_dilation_voxels=dilation, lesion_minimum_voxels=minimum)
    return score_masks([prediction], [truth], ["Lesion"], spacing_mm, scoring)["Lesion"]


def lesion_wise(dice, hd95_mm, f1, difference):
    return Scores(
        lesion_dice=pytest.approx(dice),
        lesion_hd95_mm=pytest.approx(hd95_mm),
        lesion_f1=pytest.approx(f1),
        lesion_count_difference=difference,
    )


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_found_a_missed_and_a_made_up_lesion():
    truth, prediction = rods((2, 6), (20, 24)), rods((2, 6), (34, 36))
    assert score(prediction, truth) == lesion_wise(1 / 3, 2 * DIAGONAL / 3, 2 / 4, 0)


def test_each_lesion_has_its_own_dice_and_distance():
    # 6 of 8 voxels and 2 of 8: Dice 12/14 and 4/10, 95th percentiles of 0 (6 times), 1, 2 and of 0, 0, 1 .. 6 voxels.
    truth, prediction = rods((2, 10), (20, 28)), rods((2, 8), (20, 22))
    distance = (np.percentile([0] * 6 + [1, 2], 95) + np.percentile([0, 0, 1, 2, 3, 4, 5, 6], 95)) / 2
    assert score(prediction, truth) == lesion_wise((12 / 14 + 4 / 10) / 2, distance, 1.0, 0)


def test_fragments_of_one_lesion_are_scored_together():
    truth, prediction = rods((2, 10)), rods((2, 5), (7, 10))
    found = score(prediction, truth)
    assert (found.lesion_dice, found.lesion_f1) == (pytest.approx(12 / 14), 1.0)
    assert found.lesion_count_difference == 1


def test_one_component_may_find_two_lesions():
    truth, prediction = rods((2, 6), (8, 12)), rods((2, 12))
    found = score(prediction, truth)
    assert (found.lesion_dice, found.lesion_f1) == (pytest.approx(8 / 14), 1.0)
    assert found.lesion_count_difference == 1


@pytest.mark.parametrize(("dilation", "lesions"), [(0, 2), (1, 2), (2, 1)])
def test_lesions_that_touch_after_dilation_are_one(dilation, lesions):
    # A gap of 4 voxels: grown by 1 on both sides two are left between them, grown by 2 none.
    truth, prediction = rods((2, 6), (10, 14)), rods((2, 6))
    expected = 2 * 4 / (4 + 8) if lesions == 1 else 1 / 2
    assert score(prediction, truth, dilation).lesion_dice == pytest.approx(expected)


def test_the_true_lesions_themselves_do_not_grow():
    truth = rods((2, 6), (10, 14))
    assert score(truth, truth, dilation=3) == lesion_wise(1.0, 0.0, 1.0, 0)


@pytest.mark.parametrize(("dilation", "f1"), [(1, 0.0), (2, 1.0)])
def test_what_lies_within_the_dilated_lesion_finds_it_though_it_overlaps_nothing(dilation, f1):
    truth, prediction = rods((2, 6)), rods((7, 9))
    found = score(prediction, truth, dilation)
    assert (found.lesion_dice, found.lesion_f1) == (0.0, f1)


def test_lesions_grow_across_edges_but_not_corners():
    truth, edge, corner = rods((2, 3)), rods((3, 4, 6, 5)), rods((3, 4, 6, 6))
    assert score(edge, truth, dilation=1).lesion_f1 == 1.0
    assert score(corner, truth, dilation=1).lesion_f1 == 0.0


def test_voxels_that_share_a_corner_are_one_lesion():
    truth = rods((2, 3), (3, 4, 6, 6))
    assert score(rods((2, 3)), truth) == lesion_wise(2 / 3, np.percentile([0, math.hypot(*MM)], 95), 1.0, 0)


def test_lesions_below_the_least_size_do_not_count():
    truth, prediction = rods((2, 6), (20, 22)), rods((2, 6))
    assert score(prediction, truth, minimum=2).lesion_dice == 0.5
    assert score(prediction, truth, minimum=3) == lesion_wise(1.0, 0.0, 1.0, 0)


def test_finding_a_lesion_that_does_not_count_is_no_false_positive():
    truth, prediction = rods((2, 6), (20, 22)), rods((2, 6), (20, 22), (30, 31))
    assert score(prediction, truth, minimum=3) == lesion_wise(1 / 2, DIAGONAL / 2, 2 / 3, 0)


def test_the_least_size_is_that_of_merged_lesions():
    truth, prediction = rods((2, 4), (6, 8)), rods((2, 4))
    assert score(prediction, truth, dilation=1, minimum=4).lesion_dice == pytest.approx(4 / 6)
    assert score(prediction, truth, dilation=0, minimum=4).lesion_dice is None


def test_nothing_to_count_is_no_score():
    truth, prediction = rods((2, 4)), rods((2, 4))
    assert score(prediction, truth, minimum=3) == Scores(lesion_count_difference=0)


def test_the_count_differs_either_way():
    few, many = rods((2, 4)), rods((2, 4), (8, 10), (14, 15))
    assert [score(few, many).lesion_count_difference, score(many, few).lesion_count_difference] == [2, 2]
    assert score(few, many, minimum=2).lesion_count_difference == 1
    assert score(few, many, dilation=5).lesion_count_difference == 2


def test_hundreds_of_specks_are_scored_one_by_one():
    truth = np.zeros((40, 40, 40), bool)
    truth[::4, ::8, ::8] = True
    prediction = truth.copy()
    prediction[::8] = False
    found = score(prediction, truth, spacing_mm=(1.0, 1.0, 1.0))
    assert (found.lesion_dice, found.lesion_f1) == (0.5, pytest.approx(2 * 125 / (2 * 125 + 125)))
    assert found.lesion_hd95_mm == pytest.approx(0.5 * math.sqrt(3) * 40)


# --- brute force ------------------------------------------------------------------------------------------------------

STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def neighbours(voxel, steps):
    return {tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in steps}


def walk(voxels):
    """The sets of voxels that 26 steps connect."""
    left = set(voxels)
    while left:
        found, edge = set(), {left.pop()}
        while edge:
            found |= edge
            edge = {near for voxel in edge for near in neighbours(voxel, STEPS)} & left
            left -= edge
        yield frozenset(found)


def grow(voxels, times):
    """Voxels with those that so many steps across faces or edges reach, beyond the image too."""
    grown = set(voxels)
    for _ in range(times):
        grown |= {near for voxel in grown for near in neighbours(voxel, [s for s in STEPS if 0 in s])}
    return grown


def surface(voxels):
    """Those voxels with a face on something else."""
    return [v for v in sorted(voxels) if not neighbours(v, [s for s in STEPS if s.count(0) == 2]) <= voxels]


def brute_force(prediction, truth, dilation, minimum, spacing_mm):
    """Lesion Dice, HD95 and F1 from sets of voxels; None where nothing counts."""
    predicted, true = ({tuple(v) for v in np.argwhere(mask).tolist()} for mask in (prediction, truth))
    components, diagonal_mm = list(walk(predicted)), math.dist((0, 0, 0), np.multiply(truth.shape, spacing_mm))
    dices, distances, matched, hits = [], [], set(), 0
    for reach in walk(grow(true, dilation)):
        lesion, partners = reach & true, [component for component in components if component & reach]
        matched.update(partners)
        if len(lesion) < minimum:
            continue
        found, hits = frozenset().union(*partners), hits + bool(partners)
        dices.append(2 * len(found & lesion) / (len(found) + len(lesion)))
        if not partners:
            distances.append(diagonal_mm)
            continue
        between = cdist(*(np.multiply(surface(voxels), spacing_mm) for voxels in (found, lesion)))
        distances.append(max(np.percentile(between.min(axis), 95) for axis in (0, 1)))
    made_up = len(components) - len(matched)
    total = len(dices) + made_up
    if not total:
        return None, None, None
    f1 = 2 * hits / (2 * hits + made_up + len(dices) - hits)
    return sum(dices) / total, (sum(distances) + made_up * diagonal_mm) / total, f1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.01, 0.03, 0.1]),
    dilation=st.integers(0, 2),
    minimum=st.integers(0, 4),
    spacing_mm=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_lesion_scores_equal_brute_force(seed, share, dilation, minimum, spacing_mm):
    rng = np.random.default_rng(seed)
    truth = rng.random((10, 9, 8)) < share
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.random(truth.shape) < share)
    truth[tuple(rng.integers(truth.shape))] = True
    found = score(prediction, truth, dilation, minimum, spacing_mm)
    expected = brute_force(prediction, truth, dilation, minimum, spacing_mm)
    assert [found.lesion_dice, found.lesion_hd95_mm, found.lesion_f1] == [
        value if value is None else pytest.approx(value, rel=1e-5) for value in expected
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), pads=st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 3))
def test_room_around_the_lesions_changes_no_overlap(seed, pads):
    rng = np.random.default_rng(seed)
    masks = [rng.random((8, 7, 6)) < 0.04 for _ in range(2)]
    masks[0][3, 3, 3] = True
    tight, roomy = score(*masks, dilation=2), score(*(np.pad(mask, pads) for mask in masks), dilation=2)
    assert (roomy.lesion_dice, roomy.lesion_f1) == (tight.lesion_dice, tight.lesion_f1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_single_lesion_scores_as_the_whole_mask(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, 9, 9, 9), bool)
    truth[2:7, 2:7, 2:7] = True
    prediction[1:6, 2:8, 3:7] = rng.random((5, 6, 4)) < 0.9
    everything = Scoring(metrics=METRICS, lesion_dilation_voxels=3)
    found = score_masks([prediction], [truth], ["Lesion"], MM, everything)["Lesion"]
    assert (found.lesion_dice, found.lesion_hd95_mm) == pytest.approx((found.dice, found.hd95_mm))
