"""Scores against hand-computed cases, MONAI on the whole volume, and brute force over surface voxels."""

import math
import tracemalloc
import warnings
from dataclasses import asdict, fields
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from pydantic import ValidationError
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics import METRICS, Scores, score_case, score_masks
from mimzoo.recipes import MetricName, Scoring

ORGAN = {1: "Organ"}
THREE = {1: "a", 2: "b", 3: "c"}
MM = (1.0, 1.0, 1.0)


def box(shape, start, stop, value=1):
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return voxels


def within(tolerance_mm=1.0):
    """Dice, HD95 and surface Dice at a tolerance."""
    return Scoring(metrics=("dice", "hd95_mm", "surface_dice"), surface_tolerance_mm=tolerance_mm)


def score(prediction, truth, spacing_mm=MM, tolerance_mm=1.0):
    return score_case(prediction, truth, spacing_mm, ORGAN, within(tolerance_mm))["Organ"]


def figures(found):
    return found.dice, found.hd95_mm, found.surface_dice


def blobs(seed, shape=(30, 26, 20), classes=3):
    """Two smooth random label maps that resemble each other."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(classes + 1, *shape)), (0, 3, 3, 2))
    noise = gaussian_filter(rng.normal(size=fields.shape), (0, 2, 2, 2))
    return fields.argmax(0).astype(np.uint8), (fields + 0.4 * noise).argmax(0).astype(np.uint8)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_equal_maps_score_perfectly():
    cube = box((12, 12, 12), (3, 3, 3), (9, 9, 9))
    assert score(cube, cube) == Scores(1.0, 0.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_cube_is_off_by_the_shift_in_mm(axis):
    spacing_mm = (0.5, 2.0, 3.0)
    start = np.array([5, 5, 5])
    shift = 2 * np.eye(3, dtype=int)[axis]
    truth = box((24, 24, 24), start, start + 8)
    found = score(box((24, 24, 24), start + shift, start + shift + 8), truth, spacing_mm, tolerance_mm=0.1)
    assert found.dice == 6 / 8
    # Over 5 % of the surface voxels are in the far face, so that the 95th percentile is the whole shift.
    assert found.hd95_mm == pytest.approx(2 * spacing_mm[axis], abs=1e-6)
    assert 0 < found.surface_dice < 1


def test_one_voxel_off_shares_half_its_surface():
    # Each surface element sits at a corner of the voxel: all eight weigh the same, and the two voxels share four.
    one, next_to_it = box((8, 8, 8), (3, 3, 3), (4, 4, 4)), box((8, 8, 8), (4, 3, 3), (5, 4, 4))
    spacing_mm = (2.0, 1.0, 0.5)
    assert score(next_to_it, one, spacing_mm, 1.99).surface_dice == pytest.approx(0.5)
    assert score(next_to_it, one, spacing_mm, 2.0).surface_dice == pytest.approx(1.0)
    assert score(next_to_it, one, spacing_mm).hd95_mm == pytest.approx(2.0)


def test_hd95_takes_the_95th_percentile():
    # A rod of 101 voxels all of which are surface, and one without its last 10: distances 0 (91 times), 1, 2 .. 10.
    rod, short = box((105, 5, 5), (2, 2, 2), (103, 3, 3)), box((105, 5, 5), (2, 2, 2), (93, 3, 3))
    assert score(short, rod).hd95_mm == pytest.approx(5.0)
    assert score(short, rod, (3.0, 1.0, 1.0)).hd95_mm == pytest.approx(15.0)


def test_surface_counts_by_area_not_by_voxels():
    # A plate of 60 x 60 mm, two voxels of 4 mm thick, and the same plate one voxel thicker. Surface elements lie at
    # corners between voxels, so that the upper half of the added rim belongs to its (far) edge.
    spacing_mm = (0.5, 0.5, 4.0)
    truth, thick = box((124, 124, 9), (2, 2, 3), (122, 122, 5)), box((124, 124, 9), (2, 2, 3), (122, 122, 6))
    face, rim = 60 * 60, 4 * 60 * 4
    near = (face + 2 * rim) + (face + 2.5 * rim)
    expected = near / ((2 * face + 2 * rim) + (2 * face + 3 * rim))
    # Counting surface voxels would give 0.75: nearly all of the thin plate's voxels are surface.
    assert expected == pytest.approx(0.6)
    assert score(thick, truth, spacing_mm, 0.4).surface_dice == pytest.approx(expected, abs=0.005)


def test_tolerance_is_in_mm():
    truth, shifted = box((20, 20, 20), (4, 4, 4), (14, 14, 14)), box((20, 20, 20), (4, 4, 5), (14, 14, 15))
    assert score(shifted, truth, (1.0, 1.0, 5.0), 5.0).surface_dice == 1.0
    assert score(shifted, truth, (1.0, 1.0, 5.0), 4.9).surface_dice < 0.95
    assert score(shifted, truth, (1.0, 1.0, 0.5), 0.5).surface_dice == 1.0


@pytest.mark.parametrize(("voxels", "expected"), [(6, 0.5), (4, 0.0), (1, -0.75)])
def test_volume_difference_is_relative_to_the_truth_and_signed(voxels, expected):
    truth, found = box((9, 3, 3), (1, 1, 1), (5, 2, 2)), box((9, 3, 3), (1, 1, 1), (1 + voxels, 2, 2))
    scoring = Scoring(metrics=("volume_difference",))
    assert score_case(found, truth, (2.0, 1.0, 0.5), ORGAN, scoring)["Organ"] == Scores(volume_difference=expected)


# --- absent organs ----------------------------------------------------------------------------------------------------


def test_absent_in_both_has_no_score():
    empty = np.zeros((5, 6, 7), np.uint8)
    everything = Scoring(metrics=METRICS)
    assert score_case(empty, empty, MM, {1: "Liver", 2: "Spleen"}, everything) == {"Liver": None, "Spleen": None}
    assert score_masks([empty > 0], [empty > 0], ["Liver"], MM, everything) == {"Liver": None}


@pytest.mark.parametrize("missed", [True, False])
def test_absent_in_one_is_the_worst_score(missed):
    organ, empty = box((5, 6, 7), (1, 1, 1), (3, 3, 3)), np.zeros((5, 6, 7), np.uint8)
    pair = (empty, organ) if missed else (organ, empty)
    found = score_case(*pair, (2.0, 1.0, 0.5), ORGAN, Scoring(metrics=METRICS))["Organ"]
    diagonal = math.sqrt(10**2 + 6**2 + 3.5**2)
    assert found == Scores(0.0, diagonal, 0.0, -1.0 if missed else 1.0, 0.0, diagonal, 0.0, 1.0)


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_every_metric_has_its_place_in_the_scores():
    assert tuple(field.name for field in fields(Scores)) == METRICS == get_args(MetricName)


@pytest.mark.parametrize("asked", METRICS)
def test_what_was_not_asked_for_is_none(asked):
    truth, prediction = blobs(3)
    for found in score_case(prediction, truth, MM, THREE, Scoring(metrics=(asked,))).values():
        assert [name for name, value in asdict(found).items() if value is not None] == [asked]


def test_a_metric_does_not_depend_on_what_else_is_asked_for():
    truth, prediction = blobs(4)
    everything = score_case(prediction, truth, MM, THREE, Scoring(metrics=METRICS))
    for metric in METRICS:
        alone = score_case(prediction, truth, MM, THREE, Scoring(metrics=(metric,)))
        for name in THREE.values():
            assert getattr(alone[name], metric) == getattr(everything[name], metric)


def test_scores_are_plain_numbers():
    truth, prediction = blobs(3)
    spacing_mm = np.array([1.0, 2.0, 3.0], np.float32)
    for found in score_case(prediction, truth, spacing_mm, THREE, Scoring(metrics=METRICS)).values():
        assert {type(value) for value in asdict(found).values()} == {float}


def test_lesions_are_not_scored_unless_asked_for():
    organ = box((5, 6, 7), (1, 1, 1), (3, 3, 3))
    assert score_case(organ, organ, MM, ORGAN, Scoring())["Organ"] == Scores(1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": ()},
        {"metrics": ("jaccard",)},
        {"surface_tolerance_mm": -1.0},
        {"surface_tolerance_mm": math.inf},
        {"lesion_dilation_voxels": -1},
        {"lesion_minimum_voxels": -1},
    ],
)
def test_a_scoring_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        Scoring(**wrong)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_of_a_label_map_score_like_the_map():
    truth, prediction = blobs(7)
    masks = [np.stack([voxels == value for value in THREE]) for voxels in (prediction, truth)]
    everything = Scoring(metrics=METRICS)
    by_label = score_case(prediction, truth, (1.0, 2.0, 3.0), THREE, everything)
    assert score_masks(*masks, list(THREE.values()), (1.0, 2.0, 3.0), everything) == by_label


def test_masks_may_overlap_and_come_one_by_one():
    core, whole = box((9, 9, 9), (3, 3, 3), (6, 6, 6)) > 0, box((9, 9, 9), (2, 2, 2), (7, 7, 7)) > 0
    found = score_masks(iter([core, core]), iter([core, whole]), ["core", "whole"], MM, Scoring(metrics=("dice",)))
    assert (found["core"].dice, found["whole"].dice) == (1.0, 2 * 27 / (27 + 125))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"prediction": []}, ShapeError, "one predicted and one true mask"),
        ({"truth": [np.zeros((4, 4, 4), bool)] * 2}, ShapeError, "one predicted and one true mask"),
        ({"names": ["Liver", "Spleen"]}, ShapeError, "Liver, Spleen"),
        ({"names": []}, DataError, "a name of its own"),
        ({"names": ["Liver", "Liver"]}, DataError, "a name of its own"),
        ({"truth": [np.zeros((4, 4, 5), bool)]}, ShapeError, r"\(4, 4, 5\)"),
        ({"truth": [np.zeros((4, 4, 4), np.uint8)]}, ShapeError, "bool is expected here, got .* uint8"),
        ({"spacing_mm": (1.0, -1.0, 1.0)}, ShapeError, "spacing_mm"),
    ],
)
def test_masks_that_cannot_be_scored_are_refused(change, error, says):
    empty = np.zeros((1, 4, 4, 4), bool)
    good = {"prediction": empty, "truth": empty, "names": ["Liver"], "spacing_mm": MM, "scoring": Scoring()}
    with pytest.raises(error, match=says):
        score_masks(**good | change)


# --- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
def test_equals_monai_on_the_whole_volume(seed, spacing_mm):
    truth, prediction = blobs(seed)
    onehot = [torch.stack([torch.from_numpy(m == v) for v in range(4)])[None].float() for m in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(*onehot, percentile=95, spacing=spacing_mm)[0]
        near = compute_surface_dice(*onehot, [1.5] * 3, spacing=spacing_mm, use_subvoxels=True)[0]
    dice = compute_dice(*onehot, include_background=False)[0]
    for row, found in enumerate(score_case(prediction, truth, spacing_mm, THREE, within(1.5)).values()):
        expected = (dice[row].item(), hd95[row].item(), near[row].item())
        assert figures(found) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spacing_mm=st.tuples(*[st.floats(0.3, 6)] * 3))
def test_hd95_equals_brute_force(seed, spacing_mm):
    rng = np.random.default_rng(seed)
    masks = [gaussian_filter(rng.normal(size=(9, 8, 7)), 1) > 0.1 for _ in range(2)]
    points = [np.argwhere(m & ~binary_erosion(m)) * spacing_mm for m in masks]
    between = cdist(*points)
    expected = max(np.percentile(between.min(axis), 95) for axis in (0, 1))
    prediction, truth = (m.astype(np.uint8) for m in masks)
    assert score(prediction, truth, spacing_mm).hd95_mm == pytest.approx(expected, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), pads=st.tuples(*[st.tuples(st.integers(1, 4), st.integers(1, 4))] * 3))
def test_cropping_changes_nothing(seed, pads):
    truth, prediction = blobs(seed, (12, 11, 10), 1)
    inside, padded = (
        score(prediction, truth, (1.0, 2.0, 3.0), 1.0),
        score(np.pad(prediction, pads), np.pad(truth, pads), (1.0, 2.0, 3.0), 1.0),
    )
    assert figures(padded) == pytest.approx(figures(inside), abs=1e-6)


def test_prediction_and_truth_may_be_exchanged_and_reversed():
    truth, prediction = blobs(5)
    forth = score_case(prediction, truth, (1.0, 2.0, 3.0), THREE, within(1.0))
    reversed_ = [voxels[::-1].transpose(1, 0, 2) for voxels in (truth, prediction)]
    back = score_case(*reversed_, (2.0, 1.0, 3.0), THREE, within(1.0))
    for name in THREE.values():
        assert figures(back[name]) == pytest.approx(figures(forth[name]), abs=1e-5)


def test_no_warning_reaches_the_user():
    truth, prediction = blobs(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_case(prediction, truth, MM, THREE, Scoring(metrics=METRICS))


def test_a_small_organ_in_a_large_scan_takes_little_memory():
    truth = box((256, 256, 150), (100, 100, 50), (140, 135, 80))
    prediction = np.roll(truth, 2, axis=1)
    masks = [prediction > 0], [truth > 0]
    tracemalloc.start()
    for found in (
        score_case(prediction, truth, (0.8, 0.8, 1.0), ORGAN, Scoring(metrics=METRICS)),
        score_masks(*masks, ["Organ"], (0.8, 0.8, 1.0), Scoring(metrics=METRICS)),
    ):
        assert found["Organ"].hd95_mm == pytest.approx(1.6, abs=1e-5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < truth.nbytes


def test_a_real_label_map_against_itself_eroded(data_root):
    image = nib.load(next(iter(sorted((data_root / "headneck-ct" / "labelsTr").glob("*.nii.gz")))))
    truth = np.asarray(image.dataobj).astype(np.uint8)
    names = {1: "Brainstem", 2: "SpinalCord", 3: "RightParotid", 4: "LeftParotid", 5: "Mandible"}
    eroded = np.where(binary_erosion(truth > 0), truth, 0).astype(np.uint8)
    spacing_mm = image.header.get_zooms()[:3]
    for found in filter(None, score_case(eroded, truth, spacing_mm, names, within(5.0)).values()):
        assert 0 <= found.dice < 1
        assert found.hd95_mm > 0


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"prediction": np.zeros((4, 4, 5), np.uint8)}, ShapeError, r"\(4, 4, 5\)"),
        ({"prediction": np.zeros((4, 4, 4), np.float32)}, ShapeError, "float32"),
        ({"prediction": np.full((4, 4, 4), 7, np.uint8)}, DataError, r"prediction holds the label values \[7\]"),
        ({"truth": np.full((4, 4, 4), 3, np.uint8)}, DataError, r"truth holds the label values \[3\]"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, ShapeError, "spacing_mm"),
        ({"spacing_mm": (1.0, 1.0)}, ShapeError, "spacing_mm"),
        ({"labels": {}}, DataError, "a name of its own"),
        ({"labels": {1: "Liver", 2: "Liver"}}, DataError, "a name of its own"),
        ({"labels": {0: "background", 1: "Liver"}}, DataError, "foreground"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, error, says):
    empty = np.zeros((4, 4, 4), np.uint8)
    good = {"prediction": empty, "truth": empty, "spacing_mm": MM, "labels": ORGAN, "scoring": Scoring()}
    with pytest.raises(error, match=says):
        score_case(**good | change)
