"""Sliding windows: the same labels as MONAI's, at any size, without holding the whole volume's logits."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference

from mimzoo.errors import ShapeError
from mimzoo.sliding import _starts, gaussian, slide


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


def labels_of_monai(predict, voxels, roi, overlap, batch=1):
    logits = sliding_window_inference(
        torch.from_numpy(voxels)[None], roi, batch, predict, overlap, mode="gaussian", cval=float(voxels.min())
    )
    return logits[0].argmax(0).numpy()


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


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.95))
@settings(max_examples=100, deadline=None)
def test_windows_begin_where_monais_do(length, window, overlap):
    length = max(length, window)
    step = max(int(window * (1 - overlap)), 1)
    expected = [s[0].start for s in dense_patch_slices((length,), (window,), (window if window == length else step,))]
    assert _starts(length, window, step) == expected


@pytest.mark.parametrize("roi", [(1, 2, 3), (8, 8, 8), (96, 64, 32)])
def test_weights_are_monais(roi):
    expected = compute_importance_map(roi, mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(gaussian(roi), expected, rtol=1e-5)


def test_a_volume_smaller_than_the_window_is_padded_with_each_channels_minimum():
    seen = []

    def predict(windows):
        seen.append(windows.copy())
        return windows

    voxels = np.stack([np.full((2, 3, 4), 5.0), np.full((2, 3, 4), -7.0)]).astype(np.float32)
    labels = slide(predict, voxels, (4, 4, 4), 0.5, 2)
    assert labels.shape == (2, 3, 4) and not labels.any()
    (windows,) = seen
    assert (windows[0, 0] == 5).all() and (windows[0, 1] == -7).all()


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


def test_memory_holds_a_slab_of_logits_not_the_whole_volumes():
    classes, roi, shape = 14, (16, 16, 16), (160, 48, 48)
    logits = np.zeros((1, classes, *roi), np.float32)
    voxels = np.zeros((1, *shape), np.float32)
    tracemalloc.start()
    slide(lambda _: logits, voxels, roi, 0.5, classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 4 * classes * np.prod(shape)
    assert peak < whole / 4
