"""The sheet of a data set: every readable scan, labels where they are, the right side on the right side."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scans import make_dataset, save

from mimzoo.data.check import check_dataset
from mimzoo.errors import DataError
from mimzoo.figures.paper import DPI
from mimzoo.figures.sheet import NAME, draw_sheet, evenly, panel_corner, panel_side
from mimzoo.palette import colour

SHAPE = (40, 40, 40)


def write(folder, *pairs, affine=None):
    """Write a data set of (voxels, labels or nothing) and return its report."""
    for number, (voxels, labels) in enumerate(pairs):
        part = "images" if labels is not None else "unlabelled"
        for kind, array in ((part, voxels), ("labels", labels)):
            if array is not None:
                path = folder / kind / f"case{number}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return check_dataset(folder)


def ramp():
    """Grey from black to white, all of it without a colour."""
    return np.linspace(0, 1, 40**3, dtype=np.float32).reshape(SHAPE)


def noise(seed):
    """Noise that is a medium grey on average, another for each seed."""
    return np.random.default_rng(seed).random(SHAPE, np.float32)


def block(low, high, value=1):
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return labels


def panel(image, place, plane):
    """The pixels of a panel (rows, columns, RGB), without its rim."""
    (left, top), side = panel_corner(place, plane), panel_side()
    rows, columns = (slice(round(start * DPI) + 1, round((start + side) * DPI) - 1) for start in (top, left))
    return image[rows, columns, :3]


def height_for(count):
    """The height (pixels) of a page of that many cases without labels."""
    return (panel_corner(3 * ((count + 2) // 3), 0)[1] - NAME + 0.08 + 0.3) * DPI


def outline(pixels, value=1):
    """Where a label's outline is in a panel: rows and columns from the upper left corner, 0 to 1."""
    found = np.argwhere(np.abs(pixels - colour(value - 1)).max(-1) < 0.25)
    assert len(found), "no outline"
    return found / pixels.shape[:2]


def test_three_planes_for_each_case_three_cases_in_a_row(tmp_path):
    draw_sheet(tmp_path / "sheet.png", write(tmp_path / "data", *((noise(n), None) for n in range(4))))
    image = imread(tmp_path / "sheet.png")[..., :3]
    assert image.shape[:2] == pytest.approx((height_for(4), 8.4 * DPI), abs=1)
    # grey panels where they should be, and white paper everywhere else but for names and caption
    drawn = [panel(image, place, plane) for place in range(4) for plane in range(3)]
    assert all(abs(pixels.mean() - 0.5) < 0.1 for pixels in drawn)
    inside = sum(pixels.shape[0] * pixels.shape[1] for pixels in drawn)
    assert ((image < 0.9).all(-1).sum() - inside) / inside < 0.1


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1])], ids=["RAS", "LPS"])
def test_outlines_lie_where_radiologists_expect_them(tmp_path, affine):
    # at the patient's right, front and top, where the axes of RAS rise; its middle is at 30, 30 and 33 of 40 voxels
    labels = block((24, 24, 28), (36, 36, 38))
    if affine[0, 0] < 0:
        labels = labels[::-1, ::-1]
    draw_sheet(tmp_path / "sheet.png", write(tmp_path / "data", (ramp(), labels), affine=affine))
    image = imread(tmp_path / "sheet.png")
    for plane, (row, column) in enumerate([(10, 10), (7, 10), (7, 10)]):
        found = outline(panel(image, 0, plane))
        assert (found.min(0) + found.max(0)) / 2 == pytest.approx([row / 40, column / 40], abs=0.03)


def test_panels_keep_true_proportions(tmp_path):
    labels = block((10, 10, 10), (30, 30, 30))
    draw_sheet(tmp_path / "sheet.png", write(tmp_path / "data", (ramp(), labels), affine=np.diag([1.0, 1, 2, 1])))
    image = imread(tmp_path / "sheet.png")
    axial, coronal = (np.ptp(outline(panel(image, 0, plane)), axis=0) for plane in (0, 1))
    # all planes of a case have one scale: 40 x 40 x 80 mm in frames of 80 mm
    assert axial == pytest.approx([20 / 80, 20 / 80], abs=0.03)
    assert coronal == pytest.approx([40 / 80, 20 / 80], abs=0.03)


def test_the_planes_with_most_of_the_labels_are_shown(tmp_path):
    labels = block((3, 4, 5), (6, 7, 8))
    draw_sheet(tmp_path / "sheet.png", write(tmp_path / "data", (ramp(), labels)))
    image = imread(tmp_path / "sheet.png")
    for plane in range(3):
        assert len(outline(panel(image, 0, plane)))


def test_scans_without_labels_show_their_middle(tmp_path):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[20, :, :] = voxels[:, 20, :] = voxels[:, :, 20] = 1
    draw_sheet(tmp_path / "sheet.png", write(tmp_path / "data", (voxels, None)))
    image = imread(tmp_path / "sheet.png")
    assert min(panel(image, 0, plane).mean() for plane in range(3)) > 0.95


def test_labels_off_their_scan_and_broken_scans_are_not_drawn(tmp_path):
    folder = make_dataset(tmp_path / "data", training=3, validation=0, unlabelled=0)
    (folder / "images" / "case_000.nii.gz").write_bytes(b"broken")
    save(folder / "labels" / "case_001.nii.gz", np.ones((9, 9, 9), np.uint8))
    report = check_dataset(folder)
    assert len(report.problems) == 2
    draw_sheet(tmp_path / "sheet.png", report)
    image = imread(tmp_path / "sheet.png")
    coloured = [np.ptp(panel(image, place, 0), axis=-1).max() > 0.3 for place in range(3)]
    assert coloured == [False, True, False]
    assert panel(image, 2, 0).mean() == 1


def test_of_many_scans_some_are_drawn(tmp_path):
    report = write(tmp_path / "data", *((noise(n), None) for n in range(7)))
    for name, most, drawn in (("some", 2, 2), ("all", 60, 7)):
        draw_sheet(tmp_path / f"{name}.png", report, most=most)
        assert imread(tmp_path / f"{name}.png").shape[0] == pytest.approx(height_for(drawn), abs=1)


def test_several_channels_show_the_first(tmp_path):
    bright = np.zeros(SHAPE, np.float32)
    bright[1:] = 1
    for name, voxels in (("a", bright), ("b", 1 - bright)):
        save(tmp_path / f"{name}.nii.gz", voxels)
    table = {"modality": {"0": "T1", "1": "T2"}, "unlabelled": [{"image": ["a.nii.gz", "b.nii.gz"]}]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    draw_sheet(tmp_path / "sheet.png", check_dataset(tmp_path))
    assert panel(imread(tmp_path / "sheet.png"), 0, 0).mean() > 0.9


def test_the_same_data_give_the_same_bytes(tmp_path):
    report = write(tmp_path / "data", (ramp(), block((5, 5, 5), (15, 15, 15))))
    for name in ("a.png", "b.png"):
        draw_sheet(tmp_path / name, report)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_a_readable_scan_nothing_is_drawn(tmp_path):
    folder = make_dataset(tmp_path / "data", training=1, validation=0, unlabelled=0)
    (folder / "images" / "case_000.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of its 1 scans can be read"):
        draw_sheet(tmp_path / "sheet.png", check_dataset(folder))
    assert not (tmp_path / "sheet.png").exists()


@given(count=st.integers(1, 300), most=st.integers(1, 80))
def test_even_choices_span_all(count, most):
    chosen = evenly(range(count), most)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert chosen == sorted(chosen) and chosen[0] == 0
    if most > 1:
        assert chosen[-1] == count - 1
        steps = np.diff(chosen)
        assert not len(steps) or steps.max() - steps.min() <= 1
