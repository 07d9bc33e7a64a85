"""The box of the body: all of it, little of the air, and never smaller than a window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo.bodies import body_box
from mimzoo.slabs import Slabbed

ROI = (16, 16, 16)


def scan(*parts, shape=(80, 64, 48), channels=1):
    voxels = np.zeros((channels, *shape), np.float32)
    for part in parts:
        voxels[(0, *part)] = 0.6
    return voxels


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.tuples(st.integers(0, 40), st.integers(6, 60))] * 3))
def test_the_box_holds_the_body_and_a_margin_and_lies_in_the_scan(edges):
    shape = (80, 64, 48)
    part = tuple(slice(start, min(start + size, n)) for (start, size), n in zip(edges, shape, strict=True))
    for found, inside, length in zip(body_box(scan(part), ROI), part, shape, strict=True):
        assert 0 <= found.start <= max(inside.start - 2, 0)
        assert min(inside.stop + 2, length) <= found.stop <= length
        assert found.stop - found.start >= 16


def test_air_is_left_out():
    x, y, z = body_box(scan((slice(30, 50), slice(20, 44), slice(8, 40))), ROI)
    assert (x, y, z) == (slice(26, 55), slice(14, 47), slice(2, 43))


def test_a_body_smaller_than_the_window_gets_a_whole_window():
    x, y, z = body_box(scan((slice(76, 80), slice(0, 4), slice(20, 24))), ROI)
    assert [part.stop - part.start for part in (x, y, z)] == [16, 16, 16]
    assert x.stop == 80 and y.start == 0


def test_single_bright_voxels_do_not_matter():
    voxels = scan((slice(30, 50), slice(20, 44), slice(8, 40)), shape=(160, 160, 160))
    expected = body_box(voxels, ROI)
    voxels[0, 0, 0, 0] = voxels[0, 152, 152, 152] = 5
    assert body_box(voxels, ROI) == expected


def test_any_channel_counts():
    voxels = scan((slice(30, 50), slice(20, 44), slice(8, 40)), channels=2)
    voxels[1, 4:20, 20:44, 8:40] = -1
    voxels[1, 60:70] = 3
    assert body_box(voxels, ROI)[0].stop > 70


@pytest.mark.parametrize("value", [0, 3])
def test_where_nothing_stands_out_the_box_is_the_whole(value):
    assert body_box(np.full((1, 40, 32, 20), value, np.float32), ROI) == (slice(0, 40), slice(0, 32), slice(0, 20))


def test_the_box_of_slabs_is_that_of_the_whole():
    voxels = np.random.default_rng(0).random((2, 37, 40, 33)).astype(np.float32) ** 8
    voxels[:, :9] = voxels[:, :, 30:] = 0
    slabs = lambda: ((slice(s, min(s + 7, 37)), voxels[:, s : s + 7]) for s in range(0, 37, 7))  # noqa: E731
    assert body_box(Slabbed(voxels.shape, slabs), ROI) == body_box(voxels, ROI)
