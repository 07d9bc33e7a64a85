"""Scores against hand-computed cases, MONAI on the whole volume, and brute force over surface voxels."""

import json
import math
import time
import warnings
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from mimzoo.errors import DataError, ShapeError
from mimzoo.metrics import ClassSummary, Scores, score_case, summarise

ORGAN = {1: "Organ"}
MM = (1.0, 1.0, 1.0)


def box(shape, start, stop, value=1):
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return voxels


def score(prediction, truth, spacing_mm=MM, tolerance_mm=1.0):
    return score_case(prediction, truth, spacing_mm, ORGAN, tolerance_mm)["Organ"]


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


# --- absent organs ----------------------------------------------------------------------------------------------------


def test_absent_in_both_has_no_score():
    empty = np.zeros((5, 6, 7), np.uint8)
    assert score_case(empty, empty, MM, {1: "Liver", 2: "Spleen"}, 1.0) == {"Liver": None, "Spleen": None}


@pytest.mark.parametrize("missed", [True, False])
def test_absent_in_one_is_the_worst_score(missed):
    organ, empty = box((5, 6, 7), (1, 1, 1), (3, 3, 3)), np.zeros((5, 6, 7), np.uint8)
    found = score(empty, organ, (2.0, 1.0, 0.5)) if missed else score(organ, empty, (2.0, 1.0, 0.5))
    assert found == Scores(0.0, math.sqrt(10**2 + 6**2 + 3.5**2), 0.0)


def test_without_tolerance_only_dice_is_computed():
    organ = box((5, 6, 7), (1, 1, 1), (3, 3, 3))
    assert score(organ, organ, tolerance_mm=None) == Scores(1.0, None, None)
    assert score(np.zeros_like(organ), organ, tolerance_mm=None) == Scores(0.0, None, None)


# --- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
def test_equals_monai_on_the_whole_volume(seed, spacing_mm):
    truth, prediction = blobs(seed)
    names = {1: "a", 2: "b", 3: "c"}
    onehot = [torch.stack([torch.from_numpy(m == v) for v in range(4)])[None].float() for m in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(*onehot, percentile=95, spacing=spacing_mm)[0]
        near = compute_surface_dice(*onehot, [1.5] * 3, spacing=spacing_mm, use_subvoxels=True)[0]
    dice = compute_dice(*onehot, include_background=False)[0]
    for row, found in enumerate(score_case(prediction, truth, spacing_mm, names, 1.5).values()):
        expected = (dice[row].item(), hd95[row].item(), near[row].item())
        assert (found.dice, found.hd95_mm, found.surface_dice) == pytest.approx(expected, abs=1e-6)


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
    assert (padded.dice, padded.hd95_mm, padded.surface_dice) == pytest.approx(
        (inside.dice, inside.hd95_mm, inside.surface_dice), abs=1e-6
    )


def test_prediction_and_truth_may_be_exchanged_and_reversed():
    truth, prediction = blobs(5)
    names = {1: "a", 2: "b", 3: "c"}
    forth = score_case(prediction, truth, (1.0, 2.0, 3.0), names, 1.0)
    back = score_case(truth[::-1].transpose(1, 0, 2), prediction[::-1].transpose(1, 0, 2), (2.0, 1.0, 3.0), names, 1.0)
    for name in names.values():
        assert asdict(back[name]) == pytest.approx(asdict(forth[name]), abs=1e-5)


def test_no_warning_reaches_the_user():
    truth, prediction = blobs(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_case(prediction, truth, MM, {1: "a", 2: "b", 3: "c"}, 1.0)


def test_a_large_volume_takes_seconds():
    truth = box((512, 512, 300), (200, 200, 100), (280, 270, 160))
    prediction = np.roll(truth, 2, axis=1)
    begun = time.monotonic()
    assert score(prediction, truth, (0.8, 0.8, 1.0), 1.0).hd95_mm == pytest.approx(1.6, abs=1e-5)
    assert time.monotonic() - begun < 20


def test_a_real_label_map_against_itself_eroded(data_root):
    image = nib.load(next(iter(sorted((data_root / "headneck-ct" / "labelsTr").glob("*.nii.gz")))))
    truth = np.asarray(image.dataobj).astype(np.uint8)
    names = {1: "Brainstem", 2: "SpinalCord", 3: "RightParotid", 4: "LeftParotid", 5: "Mandible"}
    eroded = np.where(binary_erosion(truth > 0), truth, 0).astype(np.uint8)
    spacing_mm = image.header.get_zooms()[:3]
    for found in filter(None, score_case(eroded, truth, spacing_mm, names, 5.0).values()):
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
        ({"tolerance_mm": -1.0}, ShapeError, "tolerance_mm"),
        ({"labels": {}}, DataError, "a name of its own"),
        ({"labels": {1: "Liver", 2: "Liver"}}, DataError, "a name of its own"),
        ({"labels": {0: "background", 1: "Liver"}}, DataError, "foreground"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, error, says):
    empty = np.zeros((4, 4, 4), np.uint8)
    good = {"prediction": empty, "truth": empty, "spacing_mm": MM, "labels": ORGAN, "tolerance_mm": 1.0}
    with pytest.raises(error, match=says):
        score_case(**good | change)


# --- summary ----------------------------------------------------------------------------------------------------------

CASES = {
    "a": {"Liver": Scores(0.8, 2.0, 0.9), "Spleen": Scores(0.5, 10.0, 0.4), "Kidney": None},
    "b": {"Liver": Scores(0.9, 4.0, 0.7), "Spleen": None, "Kidney": None},
    "c": {"Liver": Scores(0.0, 300.0, 0.0), "Spleen": Scores(0.7, 6.0, 0.8), "Kidney": None},
}


def test_summary_by_class():
    classes = summarise(CASES).classes
    liver, spleen = classes["Liver"], classes["Spleen"]
    assert (liver.dice, liver.hd95_mm, liver.surface_dice) == pytest.approx((1.7 / 3, 102.0, 1.6 / 3))
    assert liver.dice_std == pytest.approx(np.std([0.8, 0.9, 0.0], ddof=1))
    assert (liver.n, liver.n_absent, spleen.n, spleen.n_absent) == (3, 0, 2, 1)
    assert spleen.hd95_mm_std == pytest.approx(np.std([10.0, 6.0], ddof=1))
    assert classes["Kidney"] == ClassSummary(None, None, None, None, None, None, n=0, n_absent=3)


def test_summary_over_the_classes_that_are_shown():
    summary = summarise(CASES)
    assert summary.dice == pytest.approx((1.7 / 3 + 0.6) / 2)
    assert summary.hd95_mm == pytest.approx((102 + 8) / 2)
    assert summary.surface_dice == pytest.approx((1.6 / 3 + 0.6) / 2)


def test_a_missed_organ_lowers_the_mean():
    organ, empty = box((9, 9, 9), (2, 2, 2), (7, 7, 7)), np.zeros((9, 9, 9), np.uint8)
    hit, miss = score_case(organ, organ, MM, ORGAN, 1.0), score_case(empty, organ, MM, ORGAN, 1.0)
    assert summarise({"a": hit, "b": miss}).dice == 0.5


def test_summary_of_dice_alone_and_of_one_case():
    summary = summarise({"a": {"Liver": Scores(0.5)}})
    assert (summary.dice, summary.hd95_mm, summary.surface_dice) == (0.5, None, None)
    assert summary.classes["Liver"].dice_std is None


def test_summary_is_plain_json():
    assert json.loads(json.dumps(asdict(summarise(CASES)), allow_nan=False))["classes"]["Kidney"]["n_absent"] == 3


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        ({}, "no scored cases"),
        ({"a": {"Liver": None}}, "none of Liver"),
        ({"a": {"Liver": Scores(0.5)}, "b": {"Spleen": Scores(0.5)}}, "case b"),
        ({"a": {"Liver": Scores(float("nan"))}}, "case a .* not a number"),
        ({"a": {"Liver": Scores(0.5, float("inf"), 0.1)}}, "case a .* not a number"),
    ],
)
def test_what_cannot_be_summarised_is_refused(cases, says):
    with pytest.raises(DataError, match=says):
        summarise(cases)
