"""Answers of every kind from one prediction: in the scan's own grid, or told of the whole of it."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from scipy.special import softmax as scipy_softmax

from mimzoo import answers
from mimzoo.answers import softmax
from mimzoo.errors import ScanError, ShapeError
from mimzoo.grids import Grid
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.recipes import Input, WindowHU
from mimzoo.sweep import Sweep
from mimzoo.tasks import Target, make_task
from mimzoo.volume import Volume, prepare

LABELS = {1: "Edema", 2: "Core"}
DRAWN = make_task(LABELS, None, None)
REGIONS = make_task(LABELS, {"Whole": ("Edema", "Core"), "Core": ("Core",)}, None)
CLASSES = make_task(None, None, Target(column="diagnosis", classes=("CN", "MCI", "AD")))
AGE = make_task(None, None, Target(column="age", unit="years"))


def answer(task, predict, scan, input, overlap):
    return answers.answer(task, predict, prepare(scan, input), Sweep(input.crop, overlap))


def draw(task, predict, scan, input, overlap):
    return answers.draw(task, predict, prepare(scan, input), Sweep(input.crop, overlap))


def tell(task, predict, scan, input, overlap):
    return answers.tell(task, predict, prepare(scan, input), Sweep(input.crop, overlap))


def an_input(spacing_mm=(1, 1, 1), channels=("CT",), crop=(8, 8, 8)):
    window = WindowHU(mode="window_hu", window_hu=(0, 1000))
    return Input(channels=channels, spacing_mm=spacing_mm, intensity=window, crop=crop)


def turned():
    """An affine of 1 mm whose axes run to the left, up and to the back."""
    return np.array([[-1.0, 0, 0, 4], [0, 0, -1, 7], [0, 1, 0, -3], [0, 0, 0, 1]])


def a_scan(shape=(13, 9, 8), affine=None, seed=0, channels=1):
    voxels = np.random.default_rng(seed).integers(0, 1000, (channels, *shape)).astype(np.float32) + 0.5
    return Volume(voxels, Grid(shape, turned() if affine is None else affine))


def steps(*thresholds):
    """Logits (1, K, ...) that rise by one class with each threshold below the first channel."""
    offsets = np.concatenate([[0], -np.cumsum(thresholds)]).reshape(1, -1, 1, 1, 1)
    slopes = np.arange(len(thresholds) + 1).reshape(offsets.shape)
    return lambda windows: windows[:, :1] * slopes + offsets


# --- masks


def test_labels_lie_in_the_scans_own_axes_with_their_names():
    scan = a_scan()
    labels = answer(DRAWN, steps(0.4, 0.7), scan, an_input(), 0.5)
    assert isinstance(labels, LabelMap)
    np.testing.assert_array_equal(labels.voxels, np.digitize(scan.voxels[0], [400, 700], right=True))
    np.testing.assert_array_equal(labels.grid.affine, turned())
    assert labels.names == LABELS


def test_regions_are_named_in_the_order_of_the_outputs_and_may_overlap():
    scan = a_scan()
    regions = answer(REGIONS, lambda w: np.concatenate([w - 0.4, w - 0.7], 1), scan, an_input(), 0.5)
    assert isinstance(regions, RegionMap) and list(regions.masks) == ["Whole", "Core"]
    np.testing.assert_array_equal(regions.masks["Whole"], scan.voxels[0] > 400)
    np.testing.assert_array_equal(regions.masks["Core"], scan.voxels[0] > 700)
    np.testing.assert_array_equal(regions.grid.affine, turned())
    assert all(mask.dtype == np.uint8 and mask.flags.c_contiguous for mask in regions.masks.values())


def test_masks_of_a_resampled_scan_are_where_the_object_is():
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)[:, [1, 0, 2]] * [-1.1, 0.8, 2.5]
    index = np.stack(np.meshgrid(*map(np.arange, (44, 60, 24)), indexing="ij"), -1)
    far = np.linalg.norm((index - [22, 30, 12]) * [1.1, 0.8, 2.5], axis=-1)
    scan = Volume((1000 / (1 + np.exp((far - 16) / 1.5))).astype(np.float32)[None], Grid((44, 60, 24), affine))
    block = an_input((1.5, 1.5, 2), crop=(16, 16, 16))
    drawn = draw(DRAWN, steps(0.5, 2), scan, block, 0.5).voxels
    masks = draw(REGIONS, lambda w: np.concatenate([w - 0.5, w - 2], 1), scan, block, 0.5).masks
    np.testing.assert_array_equal(masks["Whole"], drawn)
    assert not masks["Core"].any()
    assert 2 * ((far < 16) & (drawn == 1)).sum() / ((far < 16).sum() + drawn.sum()) > 0.97


def test_channels_reach_the_model_in_their_order():
    scan = a_scan(channels=3)
    labels = draw(DRAWN, lambda w: w, scan, an_input(channels=("A", "B", "C")), 0.5)
    np.testing.assert_array_equal(labels.voxels, scan.voxels.argmax(0))


def test_a_wrong_number_of_outputs_is_refused():
    for task, predict in ((DRAWN, steps(0.4)), (REGIONS, lambda w: w), (CLASSES, means(2)), (AGE, means(2))):
        with pytest.raises(ShapeError, match="the model gave"):
            answer(task, predict, a_scan(), an_input(), 0.5)


@pytest.mark.parametrize("task", [DRAWN, REGIONS, CLASSES, AGE], ids=lambda task: task.kind)
def test_a_scan_with_other_channels_is_refused(task):
    with pytest.raises(ScanError, match=r"1 channel\(s\) where 2 \(T1, T2\) are expected"):
        answer(task, lambda w: w, a_scan(), an_input(channels=("T1", "T2")), 0.5)


# --- what is told of a whole scan


def means(count, slope=5.0):
    """Outputs (1, count): slope times 0, 1, 2, ... times the mean of the window."""
    return lambda windows: windows.mean() * slope * np.arange(count)[None]


def windows_of(scan, crop, overlap):
    """The means of the windows that MONAI would take of a prepared scan."""
    voxels = prepare(scan, an_input()).voxels[0]
    steps = [n if n == c else max(int(c * (1 - overlap)), 1) for n, c in zip(voxels.shape, crop, strict=True)]
    return np.array([voxels[part].mean() for part in dense_patch_slices(voxels.shape, crop, steps)])


def test_a_class_has_the_mean_of_its_probabilities_in_the_windows():
    scan = a_scan((13, 9, 8))
    told = answer(CLASSES, means(3), scan, an_input(), 0.5)
    logits = 5 * windows_of(scan, (8, 8, 8), 0.5)[:, None] * np.arange(3)
    assert len(logits) > 1
    expected = scipy_softmax(logits, axis=1).mean(0)
    assert list(told) == ["CN", "MCI", "AD"]
    np.testing.assert_allclose(list(told.values()), expected, rtol=1e-5)
    assert sum(told.values()) == pytest.approx(1)


def test_a_scan_of_one_window_has_the_probabilities_of_that_window():
    logits = np.array([[0.0, np.log(2), np.log(5)]])
    told = tell(CLASSES, lambda w: logits, a_scan((8, 8, 8)), an_input(), 0.5)
    assert told == pytest.approx({"CN": 1 / 8, "MCI": 2 / 8, "AD": 5 / 8})


def test_a_value_is_the_mean_over_the_windows_under_the_name_of_its_column():
    scan = a_scan((20, 9, 8))
    told = answer(AGE, lambda w: 40 + 60 * w.mean().reshape(1, 1), scan, an_input(), 0.5)
    expected = 40 + 60 * windows_of(scan, (8, 8, 8), 0.5).mean()
    assert told == {"age": pytest.approx(expected, rel=1e-5)}


def test_a_constant_value_comes_back_as_it_is():
    assert tell(AGE, lambda w: np.array([[-71.25]]), a_scan(), an_input(), 0.5) == {"age": -71.25}


@pytest.mark.parametrize("task", [CLASSES, AGE], ids=lambda task: task.kind)
def test_outputs_that_are_no_numbers_are_refused(task):
    with pytest.raises(ShapeError, match="NaN"):
        tell(task, lambda w: np.full((1, len(task.outputs)), np.nan), a_scan(), an_input(), 0.5)


# --- softmax


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_softmax_is_scipys(rows):
    logits = np.array(rows, np.float32)
    np.testing.assert_allclose(softmax(logits), scipy_softmax(logits, axis=1), atol=1e-6)
    np.testing.assert_allclose(softmax(logits).sum(1), 1, atol=1e-6)


def test_logits_that_would_overflow_have_probabilities_all_the_same():
    np.testing.assert_array_equal(softmax(np.array([[1e30, 0, -1e30]], np.float32)), [[1, 0, 0]])
