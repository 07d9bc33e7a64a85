"""Scans on other grids: the values of scipy, nibabel and MONAI, at the right place in the world, in bounded memory."""

import tracemalloc
import warnings
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from scipy.ndimage import map_coordinates

from mimzoo import regrid
from mimzoo.errors import ScanError
from mimzoo.grids import Grid
from mimzoo.regrid import resample_onto, same_grid


def oblique(shape, spacing, angles=(0.3, -0.2, 0.4), order=(1, 0, 2), signs=(-1, 1, 1), centre=(30, -40, 12)):
    """A grid whose axes are permuted, reversed and turned, with its middle at `centre` (mm)."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles)[:, order] * signs * spacing
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


@st.composite
def grids(draw):
    """Any grid of a few voxels near the middle of the world."""
    shape = [draw(st.integers(2, 12)) for _ in range(3)]
    spacing = [draw(st.floats(0.4, 5)) for _ in range(3)]
    angles = [draw(st.floats(-np.pi, np.pi)) for _ in range(3)]
    order = draw(st.sampled_from(list(permutations(range(3)))))
    signs = draw(st.sampled_from(list(product([1, -1], repeat=3))))
    return oblique(shape, spacing, angles, order, signs, [draw(st.floats(-3, 3)) for _ in range(3)])


def indices(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)


def world(grid):
    """The place (3, X, Y, Z) of every voxel centre in mm."""
    return np.tensordot(grid.affine[:3, :3], indices(grid.shape), 1) + grid.affine[:3, 3, None, None, None]


def places(grid, target):
    """Where the voxels of `target` lie in `grid`, in voxels (3, X, Y, Z)."""
    offset = world(target) - grid.affine[:3, 3, None, None, None]
    return np.tensordot(np.linalg.inv(grid.affine[:3, :3]), offset, 1)


def reach(grid, target, margin):
    """Which voxels of `target` lie within `grid`, up to `margin` voxels beyond its outermost centres."""
    last = np.array(grid.shape)[:, None, None, None] - 1
    found = places(grid, target)
    return ((found >= -margin) & (found <= last + margin)).all(0)


def noise(grid, channels=2, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (channels, *grid.shape)).astype(np.float32)


FLAIR, DWI = oblique((20, 24, 16), (1.1, 0.8, 2.5)), oblique((14, 18, 15), (2, 2, 2.2), (-0.1, 0.2, 0.1), (0, 1, 2))


# --- the values


@given(grids(), grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_values_are_scipys_and_the_rest_is_air(grid, target, seed):
    inside, outside = reach(grid, target, 0.5), ~reach(grid, target, 0.52)
    assume(inside.any() and not same_grid(grid, target))
    voxels = noise(grid, seed=seed)
    actual = resample_onto(voxels, grid, target)
    assert actual.shape == (2, *target.shape) and actual.dtype == np.float32
    for channel, found in zip(voxels, actual, strict=True):
        expected = map_coordinates(channel.astype(float), places(grid, target), order=1, mode="nearest")
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
        assert (found[outside] == channel.min()).all()


@given(grids(), grids(), st.tuples(*[st.floats(-2, 2)] * 4))
@settings(max_examples=80, deadline=None)
def test_what_is_linear_in_the_world_is_kept_exactly_between_the_outermost_centres(grid, target, weights):
    def field(place):
        return np.tensordot(weights[:3], place, 1)[None] + weights[3]

    inside = reach(grid, target, 0)
    assume(inside.any() and not same_grid(grid, target))
    actual = resample_onto(field(world(grid)).astype(np.float32), grid, target)
    np.testing.assert_allclose(actual[:, inside], field(world(target))[:, inside], atol=1e-3)


def test_nibabel_gives_the_same():
    voxels = noise(FLAIR, 1)
    actual = resample_onto(voxels, FLAIR, DWI)
    image = nib.Nifti1Image(voxels[0], FLAIR.affine)
    expected = resample_from_to(image, (DWI.shape, DWI.affine), order=1, mode="nearest").get_fdata()
    inside = reach(FLAIR, DWI, 0.5)
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_allclose(actual[0][inside], expected[inside], atol=1e-4)


def test_monai_gives_the_same():
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    voxels = noise(FLAIR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True, dtype=np.float64)
        expected = resample(MetaTensor(voxels, affine=FLAIR.affine), DWI.affine, DWI.shape).numpy()
    inside = reach(FLAIR, DWI, 0.5)
    np.testing.assert_allclose(resample_onto(voxels, FLAIR, DWI)[:, inside], expected[:, inside], atol=1e-4)


def test_a_real_scan_is_where_nibabel_puts_it(data_root):
    image = nib.load(data_root / "fixtures" / "spinalcord" / "images" / "t2w.nii.gz")
    voxels, grid = image.get_fdata(dtype=np.float32)[None], Grid(image.shape, image.affine)
    target = oblique((30, 28, 26), (1.7, 1.5, 2), centre=world(grid).mean((1, 2, 3)))
    expected = resample_from_to(image, (target.shape, target.affine), order=1, mode="nearest").get_fdata()
    inside = reach(grid, target, 0.5)
    assert inside.mean() > 0.5
    actual = resample_onto(voxels, grid, target)
    np.testing.assert_allclose(actual[0][inside], expected[inside], atol=1e-3 * np.ptp(expected))


# --- the place


def test_right_stays_right_between_grids_that_run_opposite_ways():
    # A lesion on the patient's right, in a scan stored from right to left.
    grid = Grid((9, 8, 7), np.array([[-2.0, 0, 0, 8], [0, 2, 0, -7], [0, 0, 2, -6], [0, 0, 0, 1]]))
    voxels = np.zeros((1, *grid.shape), np.float32)
    voxels[0, 1, 4, 3] = 1
    assert world(grid)[:, 1, 4, 3].tolist() == [6, 1, 0]
    target = Grid((9, 8, 7), np.array([[2.0, 0, 0, -8], [0, 2, 0, -7], [0, 0, 2, -6], [0, 0, 0, 1]]))
    actual = resample_onto(voxels, grid, target)[0]
    assert np.argwhere(actual).tolist() == [[7, 4, 3]] and actual[7, 4, 3] == 1
    assert world(target)[:, 7, 4, 3].tolist() == [6, 1, 0]


@given(grids(), st.sampled_from(list(permutations(range(3)))), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=40, deadline=None)
def test_axes_in_another_order_and_direction_move_no_voxel(grid, order, flips):
    voxels = noise(grid, 1)
    affine = grid.affine @ flipped(grid.shape, flips)
    affine[:3, :3] = affine[:3, order]
    target = Grid(tuple(grid.shape[axis] for axis in order), affine)
    turned = voxels[(slice(None), *(slice(None, None, -1 if flip else None) for flip in flips))]
    actual = resample_onto(voxels, grid, target)
    np.testing.assert_allclose(actual, turned.transpose(0, *(1 + a for a in order)), atol=1e-4)


def flipped(shape, flips):
    """The affine from the index on reversed axes to that on the axes themselves."""
    affine = np.diag([*(-1.0 if flip else 1.0 for flip in flips), 1])
    affine[:3, 3] = [n - 1 if flip else 0 for n, flip in zip(shape, flips, strict=True)]
    return affine


@pytest.mark.parametrize("step", [0.5, -0.5])
def test_a_plane_half_a_voxel_beyond_the_last_centres_is_whole_and_the_next_one_is_air(step):
    # float32, as in a header: rounding puts a part of that plane a little too far out.
    grid = oblique((8, 9, 10), (0.9, 1.1, 1.3))
    affine = grid.affine.astype(np.float32).astype(float)
    affine[:3, 3] += step * affine[:3, 0]
    actual = resample_onto(noise(grid) + 20, grid, Grid(grid.shape, affine))
    minimum = (noise(grid) + 20).min((1, 2, 3))
    last = actual[:, -1 if step > 0 else 0]
    np.testing.assert_allclose(last, (noise(grid) + 20)[:, -1 if step > 0 else 0], atol=1e-3)
    affine[:3, 3] += step * affine[:3, 0]
    beyond = resample_onto(noise(grid) + 20, grid, Grid(grid.shape, affine))[:, -1 if step > 0 else 0]
    assert (beyond == minimum[:, None, None]).all()


def test_air_is_each_channels_least_value():
    voxels = np.stack([np.full(DWI.shape, 7.0), np.full(DWI.shape, -3.0)]).astype(np.float32)
    voxels[:, 0, 0, 0] = (5, -1000)
    far = Grid((40, 40, 40), np.diag([3.0, 3, 3, 1]) + np.array([[0, 0, 0, v] for v in (-30, -100, -50, 0)]))
    actual = resample_onto(voxels, DWI, far)
    outside = ~reach(DWI, far, 0.52)
    assert outside.any() and reach(DWI, far, 0.5).any()
    assert (actual[0][outside] == 5).all() and (actual[1][outside] == -1000).all()


@pytest.mark.parametrize("shape", [(2, 9, 9), (9, 2, 9), (2, 2, 2), (1, 9, 9), (1, 1, 1)])
def test_thin_scans_keep_their_values(shape):
    grid, target = Grid(shape, np.diag([2.0, 2, 2, 1])), Grid((9, 9, 9), np.diag([0.7, 0.7, 0.7, 1]))
    voxels = noise(grid, 1)
    inside = reach(grid, target, 0.5)
    expected = map_coordinates(voxels[0].astype(float), places(grid, target), order=1, mode="nearest")
    np.testing.assert_allclose(resample_onto(voxels, grid, target)[0][inside], expected[inside], atol=1e-5)
    assert inside.any()


# --- equal grids


def test_equal_grids_return_the_very_same_voxels():
    rounded = Grid(FLAIR.shape, FLAIR.affine.astype(np.float32).astype(float))
    voxels = noise(FLAIR)
    assert same_grid(FLAIR, rounded) and not np.array_equal(FLAIR.affine, rounded.affine)
    assert resample_onto(voxels, FLAIR, rounded) is voxels


@pytest.mark.parametrize(
    ("share", "same"), [(0.005, True), (-0.005, True), (0.02, False), (-0.02, False), (1.0, False)]
)
def test_grids_are_one_up_to_a_hundredth_of_the_shortest_spacing(share, same):
    affine = FLAIR.affine.copy()
    affine[2, 3] += share * min(FLAIR.spacing_mm)
    other = Grid(FLAIR.shape, affine)
    assert same_grid(FLAIR, other) == same_grid(other, FLAIR) == same


def test_a_spacing_that_differs_little_makes_another_grid_where_it_adds_up():
    long = Grid((500, 9, 9), np.eye(4))
    assert not same_grid(long, Grid(long.shape, np.diag([1.0001, 1, 1, 1])))
    assert same_grid(long, Grid(long.shape, np.diag([1.00001, 1, 1, 1])))


def test_another_shape_is_another_grid():
    assert not same_grid(FLAIR, Grid((20, 24, 15), FLAIR.affine))


# --- refusals


def test_scans_that_do_not_meet_are_refused_by_name():
    far = Grid(DWI.shape, DWI.affine + np.array([[0, 0, 0, 500.0]] + [[0.0] * 4] * 3))
    with pytest.raises(ScanError, match=r"flair\.nii and the grid .* do not overlap anywhere") as caught:
        resample_onto(noise(FLAIR), FLAIR, far, "flair.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("spaces", "whose"), [((0, 1), "its header"), ((1, 0), "the other's header")])
def test_a_header_that_does_not_say_where_its_scan_lies_is_not_believed(spaces, whose):
    grid, target = (Grid(g.shape, g.affine, space) for g, space in zip((FLAIR, DWI), spaces, strict=True))
    with pytest.raises(ScanError, match=f"flair.nii lies on another grid .*{whose} does not say where"):
        resample_onto(noise(grid), grid, target, "flair.nii")
    voxels = noise(grid)
    assert resample_onto(voxels, grid, Grid(grid.shape, grid.affine, spaces[1])) is voxels


# --- memory


@pytest.mark.parametrize("slab", [1, 3, 5, 100])
def test_the_result_does_not_depend_on_the_slab(monkeypatch, slab):
    expected = resample_onto(noise(FLAIR), FLAIR, DWI)
    monkeypatch.setattr(regrid, "SLAB", slab)
    np.testing.assert_array_equal(resample_onto(noise(FLAIR), FLAIR, DWI), expected)


def test_the_scan_itself_stays_as_it_was():
    voxels, before = noise(FLAIR), noise(FLAIR)
    resample_onto(voxels, FLAIR, DWI)
    np.testing.assert_array_equal(voxels, before)


def test_memory_holds_a_slab_of_positions_not_the_whole_grids():
    grid, target = Grid((40, 40, 40), np.diag([4.0, 4, 4, 1])), Grid((1600, 20, 20), np.diag([0.1, 8, 8, 1]))
    voxels = noise(grid, 1)
    tracemalloc.start()
    resample_onto(voxels, grid, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the positions of the whole target alone would be six times the result
    assert peak < 1.5 * 4 * np.prod(target.shape)
