"""Sliding windows: the same labels and regions as MONAI's, at any size, without holding the whole volume's logits."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference

from mimzoo import sliding
from mimzoo.errors import ShapeError
from mimzoo.slabs import Slabbed
from mimzoo.sliding import gaussian
from mimzoo.sweep import Layout, Sweep


def slide(predict, voxels, roi, overlap, classes, batch=1, progress=None, **how):
    return sliding.slide(predict, voxels, Sweep(roi, overlap, batch, **how), classes, progress)


def slide_regions(predict, voxels, roi, overlap, regions, batch=1):
    return sliding.slide_regions(predict, voxels, Sweep(roi, overlap, batch), regions)


def slide_scan(predict, voxels, roi, overlap):
    return sliding.slide_scan(predict, voxels, Sweep(roi, overlap))


def position_dependent(channels, classes, roi, seed=0):
    """A predictor whose logits depend on the voxel and on its place in the window, so that blending matters."""
    rng = np.random.default_rng(seed)
    mix = torch.from_numpy(rng.normal(size=(classes, channels)).astype(np.float32))
    place = torch.from_numpy(rng.normal(size=(classes, *roi)).astype(np.float32))

    def predict(windows):
        return torch.einsum("kc,bcxyz->bkxyz", mix, windows) + place

    return predict


def in_numpy(predict):
    return lambda windows: predict(torch.from_numpy(windows)).numpy()


def logits_of_monai(predict, voxels, roi, overlap, batch=1):
    logits = sliding_window_inference(
        torch.from_numpy(voxels)[None], roi, batch, predict, overlap, mode="gaussian", cval=float(voxels.min())
    )
    return logits[0].numpy()


def labels_of_monai(*case):
    return logits_of_monai(*case).argmax(0)


sizes = st.tuples(*[st.integers(1, 23)] * 3)


@given(sizes, st.tuples(*[st.integers(2, 9)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 0.9]), st.integers(1, 3))
@example((5, 5, 5), (8, 8, 8), 0.5, 1)
@example((8, 8, 8), (8, 8, 8), 0.5, 1)
@example((23, 4, 9), (8, 8, 8), 0.5, 2)
@settings(max_examples=50, deadline=None)
def test_labels_are_identical_to_monais(size, roi, overlap, batch):
    voxels = np.random.default_rng(1).normal(size=(1, *size)).astype(np.float32)
    predict = position_dependent(1, 4, roi)
    actual = slide(in_numpy(predict), voxels, roi, overlap, 4, batch)
    assert actual.dtype == np.uint8 and actual.shape == size and actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, labels_of_monai(predict, voxels, roi, overlap, batch))


def test_several_channels_and_a_realistic_size_are_identical_to_monais():
    voxels = np.random.default_rng(2).normal(size=(3, 70, 61, 45)).astype(np.float32)
    predict = position_dependent(3, 6, (32, 24, 16))
    actual = slide(in_numpy(predict), voxels, (32, 24, 16), 0.5, 6)
    np.testing.assert_array_equal(actual, labels_of_monai(predict, voxels, (32, 24, 16), 0.5))


@pytest.mark.parametrize("roi", [(1, 2, 3), (8, 8, 8), (96, 64, 32)])
def test_weights_are_monais(roi):
    expected = compute_importance_map(roi, mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(gaussian(roi), expected, rtol=1e-5)


def ascending(shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_a_volume_smaller_than_the_window_is_padded_with_each_channels_minimum():
    seen = []

    def predict(windows):
        seen.append(windows.copy())
        return windows

    voxels = np.stack([ascending((2, 3, 4)) + 5, -ascending((2, 3, 4))])
    labels = slide(predict, voxels, (4, 4, 4), 0.5, 2)
    assert labels.shape == (2, 3, 4) and not labels.any()
    (windows,) = seen
    np.testing.assert_array_equal(windows[0, 0], np.pad(voxels[0], ((1, 1), (0, 1), (0, 0)), constant_values=5))
    np.testing.assert_array_equal(windows[0, 1], np.pad(voxels[1], ((1, 1), (0, 1), (0, 0)), constant_values=-23))


def test_a_predictor_may_return_what_it_was_given_and_the_volume_stays_as_it_was():
    voxels = np.random.default_rng(0).random((2, 9, 9, 9), np.float32)
    before = voxels.copy()
    np.testing.assert_array_equal(slide(lambda w: w, voxels, (4, 4, 4), 0.5, 2), voxels.argmax(0))
    np.testing.assert_array_equal(voxels, before)


def test_read_only_and_float64_logits_are_taken():
    voxels = np.random.default_rng(0).random((2, 9, 9, 9), np.float32)

    def predict(windows):
        logits = windows.astype(float)
        logits.flags.writeable = False
        return logits

    np.testing.assert_array_equal(slide(predict, voxels, (4, 4, 4), 0.5, 2), voxels.argmax(0))


def test_ties_go_to_the_lower_label():
    assert not slide(lambda w: np.repeat(w, 3, 1), np.ones((1, 9, 9, 9), np.float32), (4, 4, 4), 0.5, 3).any()


def test_progress_counts_every_window_and_batches_are_no_larger_than_asked():
    seen, sizes = [], []

    def predict(windows):
        sizes.append(len(windows))
        return windows

    slide(predict, np.ones((1, 9, 4, 4), np.float32), (4, 4, 4), 0.5, 1, 2, lambda *p: seen.append(p))
    assert seen == [(n, 4) for n in range(1, 5)]
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    "predict, reason",
    [
        (lambda w: w[:, :, :-1], r"shape \(1, 3, 4, 4\) where \(1, 4, 4, 4\)"),
        (lambda w: np.concatenate([w, w], 1), r"shape \(2, 4, 4, 4\)"),
        (lambda w: np.concatenate([w, w]), "2 outputs for 1 windows"),
        (lambda w: w * np.nan, "NaN"),
    ],
)
def test_outputs_that_cannot_be_logits_are_refused(predict, reason):
    with pytest.raises(ShapeError, match=reason):
        slide(predict, np.ones((1, 9, 9, 9), np.float32), (4, 4, 4), 0.5, 1)


def test_nan_in_any_class_is_refused():
    def predict(windows):
        logits = np.repeat(windows, 3, 1)
        logits[:, 1, 2, 2, 2] = np.nan
        return logits

    with pytest.raises(ShapeError, match="NaN"):
        slide(predict, np.ones((1, 4, 4, 4), np.float32), (4, 4, 4), 0.5, 3)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_makes_no_progress_is_refused(overlap):
    with pytest.raises(ShapeError, match="overlap"):
        slide(lambda w: w, np.ones((1, 4, 4, 4), np.float32), (4, 4, 4), overlap, 1)


def peak_of(act, *arguments):
    """The most memory (bytes) that a call takes."""
    tracemalloc.start()
    act(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# What the answer itself takes of the logits' memory: a byte for each voxel, or for each voxel of a region.
@pytest.mark.parametrize(("act", "answered"), [(slide, 1 / 14), (slide_regions, 1)])
def test_memory_holds_a_slab_of_logits_not_the_whole_volumes(act, answered):
    outputs, roi, shape = 14, (16, 16, 16), (320, 48, 48)
    logits = np.zeros((1, outputs, *roi), np.float32)
    voxels = np.zeros((1, *shape), np.float32)
    peak = peak_of(act, lambda _: logits, voxels, roi, 0.5, outputs)
    whole = 4 * outputs * np.prod(shape)
    # regions are turned round at the end, for which both orders are there at once
    assert peak < whole / 10 + 2 * answered * whole / 4


@pytest.mark.parametrize("threads", [1, 3])
def test_windows_along_any_axis_give_the_plain_blends_labels_in_their_order(threads):
    voxels = np.random.default_rng(3).normal(size=(1, 21, 17, 25)).astype(np.float32)
    predict = in_numpy(position_dependent(1, 4, (8, 6, 10)))
    for axis in range(3):
        sweep = Sweep((8, 6, 10), 0.5, axis=axis, threads=threads)
        expected = plain_blend(predict, voxels, Layout(voxels.shape[1:], sweep).corners, sweep.roi, 4)
        np.testing.assert_array_equal(sliding.slide(predict, voxels, sweep, 4), expected.argmax(0))


def plain_blend(predict, voxels, corners, roi, classes):
    """The sums of all logits of the whole volume, as anyone would write it down."""
    sums, weights = np.zeros((classes, *voxels.shape[1:]), np.float32), gaussian(roi)
    for corner in corners:
        place = (slice(None), *(slice(c, c + r) for c, r in zip(corner, roi, strict=True)))
        sums[place] += predict(voxels[place][None])[0] * weights
    return sums


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_without_contrast_are_not_predicted_and_are_background(batch):
    voxels = np.zeros((2, 24, 8, 8), np.float32)
    voxels[:, 3, 2, 2] = 1
    seen = []

    def predict(windows):
        seen.append(len(windows))
        return np.stack([np.zeros_like(windows[:, 0]), np.ones_like(windows[:, 0])], 1)

    labels = slide(predict, voxels, (8, 8, 8), 0.5, 2, batch, skip_constant=True)
    # of the windows that begin at 0, 4, 8, 12 and 16, only the first shows anything
    assert sum(seen) == 1
    assert (labels[:8] == 1).all() and not labels[8:].any()


def test_a_volume_without_contrast_is_background():
    assert not slide(lambda w: 1 / 0, np.ones((1, 9, 9, 9), np.float32), (4, 4, 4), 0.5, 3, skip_constant=True).any()


def test_skipping_changes_nothing_where_every_window_has_contrast():
    voxels = np.random.default_rng(1).normal(size=(1, 19, 9, 9)).astype(np.float32)
    predict = in_numpy(position_dependent(1, 3, (8, 8, 8)))
    both = [slide(predict, voxels, (8, 8, 8), 0.5, 3, skip_constant=skip) for skip in (False, True)]
    np.testing.assert_array_equal(*both)


# --- regions that may overlap


@given(sizes, st.tuples(*[st.integers(2, 9)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.integers(1, 3))
@example((5, 5, 5), (8, 8, 8), 0.5, 1)
@example((8, 8, 8), (8, 8, 8), 0.5, 1)
@settings(max_examples=50, deadline=None)
def test_regions_are_where_monais_logits_are_positive(size, roi, overlap, batch):
    voxels = np.random.default_rng(1).normal(size=(2, *size)).astype(np.float32)
    predict = position_dependent(2, 3, roi)
    actual = slide_regions(in_numpy(predict), voxels, roi, overlap, 3, batch)
    assert actual.dtype == np.uint8 and actual.shape == (3, *size) and actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, logits_of_monai(predict, voxels, roi, overlap, batch) > 0)


def test_regions_may_overlap_and_leave_gaps():
    voxels = np.random.default_rng(0).normal(size=(1, 19, 9, 9)).astype(np.float32)
    masks = slide_regions(lambda w: np.concatenate([w, w + 1], 1), voxels, (8, 8, 8), 0.5, 2)
    np.testing.assert_array_equal(masks, [voxels[0] > 0, voxels[0] > -1])
    assert (masks.sum(0) == 2).any() and (masks.sum(0) == 0).any()


def test_an_even_chance_is_no_region():
    assert not slide_regions(lambda w: w * 0, np.ones((1, 9, 9, 9), np.float32), (4, 4, 4), 0.5, 1).any()


@pytest.mark.parametrize(("value", "found"), [(np.inf, 1), (-np.inf, 0)])
def test_an_infinite_logit_is_certain(value, found):
    masks = slide_regions(lambda w: w * value, np.ones((1, 9, 9, 9), np.float32), (4, 4, 4), 0.5, 1)
    assert (masks == found).all()


def test_nan_in_any_region_is_refused():
    def predict(windows):
        logits = np.repeat(windows, 3, 1)
        logits[:, 1, 2, 2, 2] = np.nan
        return logits

    with pytest.raises(ShapeError, match="NaN"):
        slide_regions(predict, np.ones((1, 9, 4, 4), np.float32), (4, 4, 4), 0.5, 3)


def test_logits_of_other_regions_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(1, 4, 4, 4\) where \(3, 4, 4, 4\)"):
        slide_regions(lambda w: w, np.ones((1, 9, 4, 4), np.float32), (4, 4, 4), 0.5, 3)


# --- answers for whole windows


def first_and_last(windows):
    """Two numbers that tell which part of a volume of ascending voxels a window shows."""
    assert len(windows) == 1
    return np.stack([windows.min((1, 2, 3, 4)), windows.max((1, 2, 3, 4))], 1)


@given(sizes, st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
@settings(max_examples=50, deadline=None)
def test_a_scans_windows_are_monais_and_cover_it(size, roi, overlap):
    voxels = ascending((1, *size))
    seen = np.zeros(voxels.size, bool)

    def predict(windows):
        assert windows.shape == (1, 1, *roi)
        seen[windows.astype(int).ravel()] = True
        return first_and_last(windows)

    rows = slide_scan(predict, voxels, roi, overlap)
    assert seen.all()
    if all(n >= r for n, r in zip(size, roi, strict=True)):
        steps = [r if n == r else max(int(r * (1 - overlap)), 1) for n, r in zip(size, roi, strict=True)]
        windows = [voxels[0][part] for part in dense_patch_slices(size, roi, steps)]
        assert rows.tolist() == [[window.min(), window.max()] for window in windows]


def test_a_scan_smaller_than_the_window_is_padded_with_each_channels_minimum():
    voxels = np.stack([ascending((2, 3, 4)) + 5, -ascending((2, 3, 4))])
    rows = slide_scan(lambda w: w.sum((2, 3, 4)), voxels, (4, 4, 4), 0.5)
    assert rows.tolist() == [[voxels[0].sum() + 40 * 5, voxels[1].sum() - 40 * 23]] and rows.dtype == np.float32


@pytest.mark.parametrize(
    ("predict", "reason"),
    [
        (lambda w: w, r"shape \(1, 4, 4, 4\) where one row of numbers"),
        (lambda w: w[:, 0, 0, 0, 0], r"shape \(\) where one row"),
        (lambda w: np.ones((2, 3)), "2 outputs for 1 windows"),
        (lambda w: np.full((1, 3), np.nan), r"infinite or not a number \(NaN\)"),
        (lambda w: np.array([[1.0, np.inf]]), "infinite or not a number"),
        (lambda w: np.ones((1, 2 if w.max() > 70 else 3)), r"one row"),
    ],
    ids=["map", "no row", "two", "NaN", "infinite", "varying"],
)
def test_outputs_that_cannot_be_told_of_a_scan_are_refused(predict, reason):
    voxels = ascending((1, 9, 4, 4))
    with pytest.raises(ShapeError, match=reason):
        slide_scan(predict, voxels, (4, 4, 4), 0.5)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_makes_no_progress_is_refused_for_scans_too(overlap):
    with pytest.raises(ShapeError, match="overlap"):
        slide_scan(first_and_last, np.ones((1, 4, 4, 4), np.float32), (4, 4, 4), overlap)


@pytest.mark.parametrize("roi", [(12, 10, 9), (12, 10, 20)])
@pytest.mark.parametrize("axis", range(3))
def test_slabs_give_the_labels_of_the_whole(roi, axis):
    voxels = np.random.default_rng(0).random((2, 30, 22, 18), np.float32)
    slabs = lambda: ((slice(s, min(s + 8, 30)), voxels[:, s : s + 8]) for s in range(0, 30, 8))  # noqa: E731
    predict = in_numpy(position_dependent(2, 5, roi))
    labels = slide(predict, Slabbed(voxels.shape, slabs), roi, 0.5, 5, axis=axis)
    np.testing.assert_array_equal(labels, slide(predict, voxels, roi, 0.5, 5))


@pytest.mark.parametrize("mirror", [(0,), (0, 2), (0, 1, 2)])
def test_mirrored_views_are_averaged_over_all_combinations(mirror):
    voxels, roi = np.random.default_rng(0).random((1, 12, 10, 9), np.float32), (12, 10, 9)
    predict = position_dependent(1, 4, roi)
    total = 0
    for bits in range(2 ** len(mirror)):
        axes = [2 + axis for place, axis in enumerate(mirror) if bits >> place & 1]
        total = total + torch.flip(predict(torch.flip(torch.from_numpy(voxels)[None], axes)), axes)
    labels = slide(in_numpy(predict), voxels, roi, 0.5, 4, mirror=mirror)
    assert (labels == total[0].argmax(0).numpy()).mean() > 0.999


def test_outputs_of_the_two_sides_change_places_in_views_mirrored_along_x():
    roi, mirror, swapped = (12, 10, 9), (0, 2), [0, 2, 1, 3]
    voxels, predict = np.random.default_rng(0).random((1, 12, 10, 9), np.float32), position_dependent(1, 4, roi)
    total = 0
    for axes in ([], [2], [4], [2, 4]):
        found = torch.flip(predict(torch.flip(torch.from_numpy(voxels)[None], axes)), axes)
        total = total + (found[:, swapped] if 2 in axes else found)
    labels = slide(in_numpy(predict), voxels, roi, 0.5, 4, mirror=mirror, swapped=tuple(swapped))
    assert (labels == total[0].argmax(0).numpy()).mean() > 0.999
    assert (labels != slide(in_numpy(predict), voxels, roi, 0.5, 4, mirror=mirror)).any()


def test_a_scans_outputs_are_averaged_over_mirrored_views():
    voxels = np.random.default_rng(0).random((1, 6, 4, 4), np.float32)
    ramp = np.arange(6, dtype=np.float32).reshape(6, 1, 1)
    rows = sliding.slide_scan(lambda w: (w * ramp).sum((2, 3, 4)), voxels, Sweep((6, 4, 4), 0.5, mirror=(0,)))
    np.testing.assert_allclose(rows, [[2.5 * voxels.sum()]], rtol=1e-5)


def test_only_the_body_is_looked_at_and_around_it_is_background():
    voxels, roi = np.zeros((1, 60, 48, 40), np.float32), (12, 12, 12)
    voxels[:, 20:40, 12:30, 8:30] = 1 + np.random.default_rng(0).random((1, 20, 18, 22), np.float32)
    seen = []

    def predict(windows):
        seen.append(len(windows))
        return np.concatenate([np.zeros_like(windows), windows * 0 + 1, windows], 1)

    labels = slide(predict, voxels, roi, 0.5, 3, within_body=True)
    within, seen[:] = len(seen), []
    everywhere = slide(predict, voxels, roi, 0.5, 3)
    assert within < len(seen) / 2
    body = (slice(20, 40), slice(12, 30), slice(8, 30))
    np.testing.assert_array_equal(labels[body], everywhere[body])
    assert not labels[:14].any() and everywhere[:14].all() and labels.shape == everywhere.shape
