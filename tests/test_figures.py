"""Figures: the right side on the right side, true proportions, the same bytes, nothing left behind."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from mimzoo.errors import DataError, ShapeError
from mimzoo.figures import Overlay, Reconstruction, draw_curves, draw_overlays, draw_reconstruction, draw_summary
from mimzoo.figures.page import column_left, column_width
from mimzoo.figures.panels import HIDDEN, round_below
from mimzoo.figures.paper import DPI, figure_at
from mimzoo.grids import Orientation, from_ras
from mimzoo.palette import colour
from mimzoo.phantoms import make_phantom
from mimzoo.planes import AXIAL, CORONAL, PLANES, SAGITTAL, WINDOW_HU, around, fullest, grey_range
from mimzoo.volume import Grid, LabelMap, Volume, read_labels, read_scan

NAMES = {1: "Left", 2: "Right"}
MM = (1.0, 1.0, 1.0)


def overlay(labels, spacing_mm=MM, truth=False, affine=None):
    """Labels (X, Y, Z) in RAS+ over an even grey scan, as the prediction or as the truth."""
    grid = Grid(labels.shape, np.diag([*spacing_mm, 1.0]) if affine is None else affine)
    scan = Volume(np.linspace(0, 1e-3, labels.size, dtype=np.float32).reshape(1, *labels.shape), grid)
    drawn, empty = LabelMap(labels, grid), LabelMap(np.zeros_like(labels), grid)
    return Overlay("case", scan, drawn, empty) if truth else Overlay("case", scan, None, drawn)


def two_sides(shape=(60, 40, 40)):
    """A block at the patient's left (low X), front and top, and one at the right, back and bottom."""
    labels = np.zeros(shape, np.uint8)
    labels[8:16, 24:32, 24:32] = 1
    labels[-16:-8, 8:26, 8:26] = 2
    return labels


def pixels_like(image, rgb, column=None, apart=0.04):
    """Rows and columns (pixels) where an image has a colour, within a column of panels."""
    found = np.argwhere(np.abs(image[..., :3] - rgb).max(-1) < apart)
    if column is not None:
        left, right = column_left(column) * DPI, (column_left(column) + column_width()) * DPI
        found = found[(found[:, 1] >= left) & (found[:, 1] < right)]
    return found


def outline(image, value, column):
    """Pixels of a label's truth line within a column, above the legend."""
    found = pixels_like(image, colour(value - 1), column, apart=0.15)
    rows = np.unique(found[:, 0])
    # The legend's patches lie below the panels, with a gap between.
    breaks = np.flatnonzero(np.diff(rows) > 20)
    return found[found[:, 0] <= rows[breaks[-1]]] if len(breaks) else found


def triple(shape=(24, 20, 16), seed=0):
    rng = np.random.default_rng(seed)
    original = rng.random(shape).astype(np.float32)
    masked = original.copy()
    masked[:8] = np.nan
    return original, masked, np.where(np.isnan(masked), 0.5, original)


# --- planes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plane", "place", "row", "column"),
    [
        # (X, Y, Z) from low to high is left to right, back to front, feet to head.
        (AXIAL, (0, 5, 2), "top", "right"),
        (AXIAL, (3, 0, 2), "bottom", "left"),
        (CORONAL, (0, 2, 6), "top", "right"),
        (CORONAL, (3, 2, 0), "bottom", "left"),
        (SAGITTAL, (2, 0, 6), "top", "right"),
        (SAGITTAL, (2, 5, 0), "bottom", "left"),
    ],
)
def test_a_voxel_lies_where_radiologists_expect_it(plane, place, row, column):
    volume = np.zeros((4, 6, 7))
    volume[place] = 1
    image = plane.cut(volume, place[plane.axis])
    height, width = image.shape
    assert image[0 if row == "top" else height - 1, 0 if column == "left" else width - 1] == 1


def test_edges_carry_their_names():
    assert [plane.letters for plane in PLANES] == ["RLAP", "RLSI", "APSI"]


def test_the_plane_with_most_of_all_classes_is_shown():
    labels = np.zeros((20, 8, 8), np.uint8)
    labels[2:6, :, :] = 1
    labels[5:9, 0, 0] = 2  # a small organ counts as much as a large one
    assert fullest(labels, 0) == 5
    assert fullest(np.zeros((21, 4, 4), np.uint8), 0) == 10


def test_labels_keep_a_margin_of_tissue():
    labels = np.zeros((300, 50, 60), np.uint8)
    labels[150:160, 20, 30] = 1
    assert around(labels, (1.0, 1.0, 4.0)) == (slice(110, 200), slice(0, 50), slice(20, 41))
    assert labels[around(np.zeros_like(labels), MM)].shape == labels.shape


def test_ct_is_shown_in_a_soft_tissue_window():
    assert grey_range(np.array([-1000.0, 0, 2000])) == WINDOW_HU
    low, high = grey_range(np.linspace(0, 1000, 1001))
    assert (low, high) == pytest.approx((5, 995))
    low, high = grey_range(np.full(5, 3.0))
    assert low < high


def test_scale_bars_have_round_lengths():
    assert [round_below(length) for length in (120, 99, 50, 20.5, 1, 0.7)] == [100, 50, 50, 20, 1, 0.5]


def test_the_first_21_colours_differ():
    assert len({colour(place) for place in range(21)}) == 21
    assert all(0 <= part <= 1 for place in range(254) for part in colour(place))


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_patient_left_is_on_the_right_of_axial_and_coronal(tmp_path):
    draw_overlays(tmp_path / "o.png", [overlay(two_sides(), truth=True)], NAMES)
    image = imread(tmp_path / "o.png")
    for column in (0, 1):
        left, right = (outline(image, value, column).mean(0) for value in (1, 2))
        middle = (column_left(column) + column_width() / 2) * DPI
        assert right[1] < middle < left[1]
        # The block at the patient's left is also further forward (axial) and further up (coronal).
        assert left[0] < right[0]


def test_sagittal_has_the_face_on_the_left_and_the_head_up(tmp_path):
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[10:20, 40:50, 40:50], labels[10:20, 10:30, 10:30] = 1, 2
    draw_overlays(tmp_path / "o.png", [overlay(labels, truth=True)], NAMES)
    front, back = (outline(imread(tmp_path / "o.png"), value, 2).mean(0) for value in (1, 2))
    assert front[1] < back[1] and front[0] < back[0]


def test_anisotropic_voxels_keep_their_proportions(tmp_path):
    labels = np.zeros((40, 40, 20), np.uint8)
    labels[10:30, 10:30, 8:12] = 1  # 20 x 20 x 20 mm
    draw_overlays(tmp_path / "o.png", [overlay(labels, (1.0, 1.0, 5.0), truth=True)], {1: "Cube"})
    image = imread(tmp_path / "o.png")
    sizes = [np.ptp(outline(image, 1, column), axis=0) for column in range(3)]
    assert all(height == pytest.approx(width, abs=3) for height, width in sizes)
    assert np.ptp([size[0] for size in sizes]) <= 3


def test_the_figure_does_not_depend_on_the_orientation_in_the_file(tmp_path):
    scan, labels = make_phantom(1, (32, 32, 24), (10.0, 10.0, 12.0))
    as_ras = Overlay("phantom", scan, labels, labels)
    affine = scan.grid.affine
    turn = Orientation((2, 0, 1), (True, False, True))
    voxels = from_ras(scan.voxels, turn)
    turned_affine = np.eye(4)
    for axis, (own, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        step = affine[:, axis]
        turned_affine[:, own] = -step if flip else step
        turned_affine[:, 3] = turned_affine[:, 3] + (step * (scan.grid.shape[axis] - 1) if flip else 0)
    turned_affine[:3, 3] += affine[:3, 3]
    turned_affine[3] = (0, 0, 0, 1)
    grid = Grid(voxels.shape[1:], turned_affine)
    turned = LabelMap(from_ras(labels.voxels, turn), grid)
    draw_overlays(tmp_path / "ras.png", [as_ras], labels.names)
    draw_overlays(tmp_path / "turned.png", [Overlay("phantom", Volume(voxels, grid), turned, turned)], labels.names)
    assert (tmp_path / "ras.png").read_bytes() == (tmp_path / "turned.png").read_bytes()


def test_many_cases_many_classes_and_odd_names(tmp_path):
    labels = (np.indices((30, 12, 10)).sum(0) % 41).astype(np.uint8)
    names = {value: f"class $ {value}_{{" for value in range(1, 41)}
    cases = [overlay(labels)._replace(name="a name far too long to stand beside a row of panels $x"), overlay(labels)]
    draw_overlays(tmp_path / "o.png", [*cases, overlay(np.zeros_like(labels))], names)
    height, width, _ = imread(tmp_path / "o.png").shape
    assert width == 1260 and 900 < height < 3000


def test_a_case_without_any_label_is_drawn(tmp_path):
    draw_overlays(tmp_path / "o.png", [overlay(np.zeros((9, 8, 7), np.uint8))], NAMES)
    assert imread(tmp_path / "o.png").std() > 0


def test_real_scans_are_drawn(tmp_path, data_root):
    folder = data_root / "fixtures" / "spinalcord"
    scan, labels = read_scan(folder / "images" / "t2w.nii.gz"), read_labels(folder / "labels" / "t2w.nii.gz")
    draw_overlays(tmp_path / "o.png", [Overlay("t2w", scan, labels, labels)], {1: "Cord"})
    assert len(outline(imread(tmp_path / "o.png"), 1, 0)) > 100


def test_labels_off_the_scan_are_refused(tmp_path):
    case = overlay(two_sides())
    with pytest.raises(ShapeError, match=r"case: labels \(60, 40, 39\) do not lie on the scan \(60, 40, 40\)"):
        draw_overlays(
            tmp_path / "o.png", [case._replace(prediction=overlay(two_sides((60, 40, 39))).prediction)], NAMES
        )
    with pytest.raises(DataError, match="no case"):
        draw_overlays(tmp_path / "o.png", [], NAMES)
    assert not list(tmp_path.iterdir())


# --- reconstructions and summary --------------------------------------------------------------------------------------


def test_hidden_voxels_are_coloured(tmp_path):
    draw_reconstruction(tmp_path / "r.png", *triple(), title="a crop", spacing_mm=MM)
    image = imread(tmp_path / "r.png")
    hidden = pixels_like(image, to_rgb(HIDDEN), 1)
    # The lowest third of X is hidden, which is at the patient's left: the right of the axial and coronal planes.
    assert len(hidden) > 10_000
    assert hidden[:, 1].max() > (column_left(1) + 0.9 * column_width()) * DPI
    assert not len(pixels_like(image, to_rgb(HIDDEN), 2))


def test_panels_have_the_height_of_their_planes(tmp_path):
    flat, tall = tmp_path / "flat.png", tmp_path / "tall.png"
    draw_reconstruction(flat, *triple((20, 20, 20)), title="", spacing_mm=MM)
    draw_reconstruction(tall, *triple((20, 20, 20)), title="", spacing_mm=(1.0, 1.0, 2.0))
    added = imread(tall).shape[0] - imread(flat).shape[0]
    assert added == pytest.approx(2 * column_width() * DPI, abs=2)


def test_a_summary_shows_both_halves(tmp_path):
    case = overlay(two_sides(), truth=True)
    lines = ["Dice 0.8 pretrained, 0.7 from scratch", "word " * 60]
    draw_summary(tmp_path / "s.png", Reconstruction(*triple(), MM), case, NAMES, lines, title="demo")
    image = imread(tmp_path / "s.png")
    assert len(pixels_like(image, to_rgb(HIDDEN), 1)) > 1000
    assert len(outline(image, 1, 1)) > 50 and not len(pixels_like(image, colour(0), 2))
    left, right = (outline(image, value, 1).mean(0)[1] for value in (1, 2))
    assert right < left


def test_a_summary_of_nothing_found_is_drawn(tmp_path):
    case = overlay(np.zeros((9, 8, 7), np.uint8), truth=True)
    draw_summary(tmp_path / "s.png", Reconstruction(*triple(), MM), case, NAMES, [], title="demo")
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_what_does_not_fit_is_refused(tmp_path):
    original, masked, reconstructed = triple()
    with pytest.raises(ShapeError, match=r"one shape, got \[\(23, 20, 16\), \(24, 20, 16\)\]"):
        draw_reconstruction(tmp_path / "r.png", original, masked[1:], reconstructed, title="", spacing_mm=MM)
    with pytest.raises(DataError, match="no truth"):
        draw_summary(tmp_path / "s.png", Reconstruction(*triple(), MM), overlay(two_sides()), NAMES, [], title="demo")
    assert not list(tmp_path.iterdir())


# --- curves -----------------------------------------------------------------------------------------------------------


def history(path, classes=3):
    rows = ["step,split,name,value"]
    for step in range(10, 510, 10):
        rows += [f"{step},training,loss,{1 / step}", f"{step},training,learning_rate,{step * 1e-6}"]
        if step % 50 == 0:
            rows += [f"{step},validation,loss,{2 / step}", f"{step},validation,dice,{step / 1000}"]
            rows += [f"{step},validation,dice class {number},{step / (1001 + number)}" for number in range(classes)]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("classes", [0, 3, 40])
def test_each_figure_of_a_run_has_a_panel(tmp_path, classes):
    draw_curves(tmp_path / "c.png", history(tmp_path / "history.csv", classes))
    assert imread(tmp_path / "c.png").shape[:2] == (435, 3 * 540)


def test_curves_survive_what_is_not_a_number(tmp_path):
    text = (
        "step,split,name,value\n1,training,loss,nan\n1,validation,dice,nan\n2,validation,dice,0.5\n2,test,new $,inf\n"
    )
    (tmp_path / "history.csv").write_text(text)
    draw_curves(tmp_path / "c.png", tmp_path / "history.csv")
    assert imread(tmp_path / "c.png").shape[1] == 3 * 540


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("", "begins with step,split,name,value, got ''"),
        ("a,b\n", "got 'a,b'"),
        ("step,split,name,value\n", "nothing is recorded yet"),
        ("step,split,name,value\n1,training,loss,0.1\n2,training,loss\n", "line 3 is not .*'2,training,loss'"),
        ("step,split,name,value\nx,training,loss,0.1\n", "line 2 is not"),
    ],
)
def test_a_broken_history_is_refused(tmp_path, text, says):
    path = tmp_path / "history.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=says):
        draw_curves(tmp_path / "c.png", path)
    assert not (tmp_path / "c.png").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_same_figure_has_the_same_bytes(tmp_path):
    draw_overlays(tmp_path / "a.png", [overlay(two_sides())], NAMES)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "image.origin": "lower", "savefig.dpi": 20}):
        draw_overlays(tmp_path / "b.png", [overlay(two_sides())], NAMES)
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_figure_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "new" / "figure.png"
    with figure_at(path, 2, 1):
        pass
    before = path.read_bytes()
    with pytest.raises(RuntimeError), figure_at(path, 3, 1):
        raise RuntimeError
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_pyplot_stays_out_of_memory(tmp_path):
    code = (
        "import sys\nfrom mimzoo.figures import draw_curves\n"
        f"draw_curves({str(tmp_path / 'c.png')!r}, {str(history(tmp_path / 'history.csv'))!r})\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
