"""Voxels that come slab by slab: the same in any window, in any order, and few of them held."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo.slabs import Slabbed

SHAPE = (2, 23, 5, 7)
VOXELS = np.random.default_rng(0).random(SHAPE, np.float32)


def slabbed(thick, asked=None):
    def slabs():
        for start in range(0, SHAPE[1], thick):
            if asked is not None:
                asked.append(start)
            yield slice(start, min(start + thick, SHAPE[1])), VOXELS[:, start : start + thick].copy()

    return Slabbed(SHAPE, slabs)


def cut(length):
    return st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(lambda p: slice(p[0], min(sum(p), length)))


@settings(deadline=None)
@given(st.integers(1, 25), st.lists(st.tuples(*map(cut, SHAPE[1:])), min_size=1, max_size=6))
def test_any_windows_in_any_order_hold_what_the_whole_does(thick, windows):
    voxels = slabbed(thick)
    for window in windows:
        np.testing.assert_array_equal(voxels[(slice(None), *window)], VOXELS[(slice(None), *window)])
    np.testing.assert_array_equal(voxels.whole(), VOXELS)


def test_a_window_is_an_array_of_its_own():
    voxels = slabbed(4)
    index = (slice(None), slice(0, 4), slice(0, 5), slice(0, 7))
    voxels[index][:] = 0
    np.testing.assert_array_equal(voxels[index], VOXELS[:, :4])


def test_no_more_is_held_than_a_window_lies_in():
    voxels = slabbed(4)
    for start in range(0, 18):
        voxels[:, start : start + 6, 0:5, 0:7]
        assert sum(place.stop - place.start for place, _ in voxels.held) <= 6 + 2 * 3


@pytest.mark.parametrize(("starts", "turns"), [((0, 3, 9, 17), 1), ((0, 9, 10, 8), 1), ((0, 9, 3), 2)])
def test_slabs_are_made_once_unless_a_window_goes_back(starts, turns):
    asked = []
    voxels = slabbed(4, asked)
    for start in starts:
        voxels[:, start : start + 6, 0:5, 0:7]
    assert asked.count(0) == turns
