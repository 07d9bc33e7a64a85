"""Sweeps: windows where MONAI's are, every voxel in blocks that are begun once and done once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices

from mimzoo.errors import ShapeError
from mimzoo.sweep import Layout, Sweep, most_held, places

CASES = st.tuples(*[st.tuples(st.integers(0, 20), st.integers(1, 9))] * 3)
SMALL = st.tuples(*[st.tuples(st.integers(0, 9), st.integers(3, 6))] * 3)
AXES = st.integers(0, 2)


def laid_out(case, overlap, axis=0):
    """A layout whose volume is longer than its window by the first number of each pair."""
    roi = tuple(window for _, window in case)
    return Layout(tuple(more + window for more, window in case), Sweep(roi, overlap, axis=axis))


@given(CASES, st.floats(0, 0.95))
@settings(max_examples=50, deadline=None)
def test_windows_begin_where_monais_do(case, overlap):
    layout = laid_out(case, overlap)
    pairs = list(zip(layout.shape, layout.roi, strict=True))
    steps = [window if window == length else max(int(window * (1 - overlap)), 1) for length, window in pairs]
    expected = dense_patch_slices(layout.shape, layout.roi, steps)
    assert layout.corners == [tuple(part.start for part in window) for window in expected]


@given(SMALL, st.sampled_from([0.0, 0.25, 0.5]), AXES)
@settings(max_examples=25, deadline=None)
def test_every_block_of_a_window_is_begun_once_and_done_once(case, overlap, axis):
    layout = laid_out(case, overlap, axis)
    done, held = np.zeros(layout.shape, int), set()
    for corner in layout.corners:
        covered = np.zeros(layout.shape, bool)
        for index, last in layout.touched(corner):
            place = layout.place(index)
            assert not done[place].any() and not covered[place].any()
            covered[place] = True
            held.add(index)
            if last:
                done[place] += 1
                held.remove(index)
        inside = covered[places(corner, layout.roi)]
        assert inside.all() and covered.sum() == inside.size
    assert (done == 1).all() and not held


@given(SMALL, st.sampled_from([0.0, 0.25, 0.5, 0.7]), AXES)
@settings(max_examples=100, deadline=None)
def test_as_many_voxels_are_held_as_listing_the_windows_shows(case, overlap, axis):
    layout = laid_out(case, overlap, axis)
    held, most = {}, 0
    for corner in layout.corners:
        touched = list(layout.touched(corner))
        held |= {index: np.prod([part.stop - part.start for part in layout.place(index)]) for index, _ in touched}
        most = max(most, sum(held.values()))
        for index, last in touched:
            if last:
                del held[index]
    assert most_held(layout.shape, Sweep(layout.roi, overlap, axis=axis)) == most


def test_what_is_held_of_a_volume_with_more_windows_than_could_be_listed_is_told():
    sweep = Sweep((96, 96, 96), 0.5)
    planes = most_held((2**20, 2**10, 2**10), sweep) / 2**20
    assert 48 < planes < 96


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_less_is_held_along_the_longest_axis(axis):
    shape = [32, 32, 32]
    shape[axis] = 320
    most = [most_held(shape, Sweep((16, 16, 16), 0.5, axis=way)) for way in range(3)]
    assert min(most) == most[axis] < np.prod(shape) / 10


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_makes_no_progress_is_refused(overlap):
    with pytest.raises(ShapeError, match="overlap"):
        Layout((9, 9, 9), Sweep((4, 4, 4), overlap))
    with pytest.raises(ShapeError, match="overlap"):
        most_held((9, 9, 9), Sweep((4, 4, 4), overlap))
