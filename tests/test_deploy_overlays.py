"""Pictures of masks on their scans: read back by another library, with every label in its colour and at its place."""

import numpy as np
import pytest
from matplotlib.image import imread
from thresholds import OBLIQUE, ball

from mimzoo.deploy.overlays import GAP, SIDE, as_labels, draw_overlay
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.palette import colour
from mimzoo.volume import Grid, Volume


def drawn(tmp_path, labels, voxels=None, affine=None):
    voxels = np.zeros(labels.shape, np.float32) + np.arange(labels.shape[2]) if voxels is None else voxels
    scan = Volume(voxels[None].astype(np.float32), Grid(labels.shape, np.eye(4) if affine is None else affine))
    draw_overlay(tmp_path / "a.png", scan, labels.astype(np.uint8))
    return imread(tmp_path / "a.png")


def panels(pixels, widths):
    starts = np.cumsum([0, *(width + GAP for width in widths[:-1])])
    return [pixels[:, start : start + width] for start, width in zip(starts, widths, strict=True)]


def where(panel, value):
    """Where the outline of a label is, as rows and columns."""
    return np.argwhere(np.abs(panel[..., :3] - colour(value - 1)).max(-1) < 0.01)


def test_three_planes_stand_beside_each_other_in_true_proportions(tmp_path):
    labels = np.zeros((40, 20, 10), np.uint8)
    labels[10:30, 5:15, 2:8] = 1
    pixels = drawn(tmp_path, labels, affine=np.diag([1, 1, 2, 1]))
    # 40 x 20 x 20 mm, of which all is within reach of the label
    assert pixels.shape == (SIDE // 2, SIDE + GAP + SIDE + GAP + SIDE // 2, 3)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_right_is_on_the_left_front_is_up_and_the_head_is_up_however_the_scan_is_stored(tmp_path, flips):
    labels = np.zeros((20, 20, 20), np.uint8)
    # to the right, in front, and low, where axes rise to the right, to the front and to the head
    labels[14:18, 14:18, 2:6] = 1
    stored = labels[tuple(slice(None, None, flip) for flip in flips)]
    pictures = panels(drawn(tmp_path, stored, affine=np.diag([*flips, 1])), [SIDE] * 3)
    middles = [(where(picture, 1).mean(0) > SIDE / 2).tolist() for picture in pictures]
    # (low on the picture, right on the picture) in the axial, coronal and sagittal plane
    assert middles == [[False, False], [True, False], [True, False]]


def test_an_oblique_scan_is_drawn_upright_with_its_label_in_the_middle(tmp_path):
    voxels, inside = ball()
    pixels = drawn(tmp_path, inside, voxels, OBLIQUE)
    found = where(pixels, 1)
    assert len(found) > 500
    # 48 x 48.4 x 60 mm; the ball is as wide as it is high, for planes are in true proportions
    axial = found[found[:, 1] < SIDE * 48 / 60]
    assert np.ptp(axial, axis=0)[0] == pytest.approx(np.ptp(axial, axis=0)[1], rel=0.1)


@pytest.mark.parametrize("shape", [(3, 4, 5), (64, 2, 2), (30, 30, 30)])
def test_a_scan_without_labels_and_of_any_shape_is_drawn_whole(tmp_path, shape):
    pixels = drawn(tmp_path, np.zeros(shape, np.uint8))
    assert pixels.ndim == 3 and max(pixels.shape) <= 3 * SIDE + 2 * GAP
    assert np.ptp(pixels, axis=-1).max() == 0


def test_the_same_scan_gives_the_same_bytes_and_nothing_is_left_beside_them(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (12, 10, 8))
    drawn(tmp_path, labels)
    first = (tmp_path / "a.png").read_bytes()
    drawn(tmp_path, labels)
    assert (tmp_path / "a.png").read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_regions_lie_over_each_other_with_the_last_on_top():
    whole, core = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    whole[1:], core[2:] = 1, 1
    grid = Grid((4, 4, 4), np.eye(4))
    assert as_labels(RegionMap({"Whole": whole, "Core": core}, grid))[:, 0, 0].tolist() == [0, 1, 2, 2]
    assert as_labels(LabelMap(whole, grid)) is whole
