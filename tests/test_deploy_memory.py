"""Memory told before it is taken: enough for what is taken then, and refused where there is not as much."""

import subprocess
import sys
from math import prod

import numpy as np
import pytest
from thresholds import ROI, an_input, counted, linear_graph, metadata, noise, save_model, save_scan

from mimzoo.deploy import Choice, Manner, Segmenter, memory, segment_files
from mimzoo.deploy.memory import Given, fitting, memory_bytes, mirror_axes, needed_bytes, reading_bytes
from mimzoo.errors import ExportError, MimzooError, ScanError
from mimzoo.grids import Grid
from mimzoo.sweep import Sweep
from mimzoo.tasks import Target, make_task

LABELLED = make_task({n: f"organ {n}" for n in range(1, 14)}, None, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("4GB", 4 * 10**9), ("800 mb", 8 * 10**8), ("1.5GB", 1_500_000_000), ("7B", 7)]
)
def test_memory_is_read_as_people_write_it(text, expected):
    assert memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["4", "GB", "-1GB", "4 GiB", "much"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(MimzooError, match="is no amount of memory; write it as 4GB"):
        memory_bytes(text)


@pytest.mark.parametrize(("text", "expected"), [("x", (0,)), ("zx", (0, 2)), ("xyz", (0, 1, 2)), ("card", "card")])
def test_axes_to_mirror_along_are_letters_or_those_of_the_card(text, expected):
    assert mirror_axes(text) == expected


@pytest.mark.parametrize("text", ["", "a", "xx", "x,y", "Card"])
def test_what_names_no_axes_is_refused(text):
    with pytest.raises(MimzooError, match="names no axes to mirror along; write some of x, y and z"):
        mirror_axes(text)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from mimzoo.grids import Grid

def memory(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
"""
PEAK = """
from mimzoo.answers import answer
from mimzoo.deploy.memory import Given, needed_bytes
from mimzoo.recipes import Input, WindowHU
from mimzoo.sweep import Sweep
from mimzoo.tasks import make_task
from mimzoo.volume import Volume, stream

window = WindowHU(mode="window_hu", window_hu=(0, 1000))
input = Input(channels=("CT",), spacing_mm=(1, 1, 1), intensity=window, crop=(32, 32, 32))
task = make_task({n: f"organ {n}" for n in range(1, 14)}, None, None)
grid = Grid((160, 128, 128), np.diag([1.2, 1, 1, 1]))
sweep = Sweep((32, 32, 32), 0.5)
predict = lambda windows: np.repeat(windows, 14, 1)
# one turn first, so that what Python and its packages take once is not counted
small = Volume(np.random.default_rng(0).random((1, 40, 40, 40), np.float32), Grid((40, 40, 40), np.eye(4)))
answer(task, predict, stream(small, input), sweep)
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
volume = Volume(np.random.default_rng(0).random((1, *grid.shape), np.float32), grid)
answer(task, predict, stream(volume, input), sweep)
print(memory("VmHWM") - before, needed_bytes(Given(grid, volume.voxels.nbytes), input, task, sweep))
"""


READING = """
from mimzoo.deploy.memory import reading_bytes
from mimzoo.volume import read_scan

files = sys.argv[1:]
# one turn first, of small scans
read_scan(files[:2], 2)
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
scan = read_scan(files[2:], len(files) - 2)
grids = [scan.grid, *(read_scan(file).grid for file in files[3:])]
print(memory("VmHWM") - before, reading_bytes(grids))
"""
POLISHING = """
from mimzoo.deploy.components import Polish, polished
from mimzoo.deploy.memory import Given, needed_bytes
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.recipes import Input, ZScore
from mimzoo.sweep import Sweep
from mimzoo.tasks import make_task

names, polish = {1: "a", 2: "b"}, Polish({"a": 0.01, "b": 0.01}, ("a", "b"), ("a", "b"))
grid = Grid((256, 256, 160), np.eye(4))
mask = np.zeros(grid.shape, np.uint8)
mask[2:-2, 2:-2, 2:-2] = 1
mask[40:60, 40:60, 40:60] = 0
regions = {"a": ("a",), "b": ("b",)} if sys.argv[1] == "regions" else None
drawn = RegionMap({"a": mask, "b": mask.copy()}, grid) if regions else LabelMap(mask, grid, names)
polished(LabelMap(mask[:40, :40, :40], Grid((40, 40, 40), np.eye(4)), names), polish)
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
kept = polished(drawn, polish)
input = Input(channels=("CT",), spacing_mm=(9, 9, 9), intensity=ZScore(mode="zscore"), crop=(16, 16, 16))
task, given = make_task(names, regions, None), Given(grid, 0, polished=True)
drawn_bytes = (2 if regions else 1) * mask.size
print(memory("VmHWM") - before + drawn_bytes, needed_bytes(given, input, task, Sweep((16, 16, 16), 0.5)))
"""


def peak(code, *arguments):
    """Return the memory that a script takes, and the memory that it was told to."""
    command = [sys.executable, "-c", MEMORY + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


TILTED = np.array([[1, 0.1, 0, -3], [-0.1, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1]])
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")


@ON_LINUX
def test_a_scan_takes_what_was_told():
    taken, told = peak(PEAK)
    # temporaries of resampling and deciding come on top
    assert 0.5 * told < taken < 1.15 * told + 20e6


@ON_LINUX
@pytest.mark.parametrize(("shape", "affine"), [((160, 160, 160), np.eye(4)), ((200, 200, 120), TILTED)])
def test_reading_several_files_takes_what_was_told(tmp_path, shape, affine):
    small = [save_scan(tmp_path / f"{n}.nii", noise(), tilt) for n, tilt in enumerate((np.eye(4), TILTED))]
    first = save_scan(tmp_path / "first.nii", noise((160, 160, 160)))
    others = [save_scan(tmp_path / f"{n}.nii", noise(shape), affine) for n in "ab"]
    taken, told = peak(READING, *small, first, *others)
    assert 0.7 * told < taken < 1.05 * told + 5e6


@ON_LINUX
@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_putting_masks_right_takes_what_was_told(kind):
    pytest.importorskip("cc3d")
    taken, told = peak(POLISHING, kind)
    assert 0.5 * told < taken < 1.05 * told + 5e6


def test_more_outputs_regions_and_channels_need_more():
    given, sweep = Given(Grid((64, 64, 64), np.eye(4)), 0), Sweep((16, 16, 12), 0.5)
    few = make_task({1: "a"}, None, None)
    regions = make_task({1: "a", 2: "b"}, {"A": ("a",), "B": ("b",)}, None)
    needs = [needed_bytes(given, an_input(), task, sweep) for task in (few, regions, LABELLED)]
    assert needs == sorted(needs)
    two = an_input(channels=("T1", "T2"))
    assert needed_bytes(given, two, few, sweep) > needs[0]
    told = make_task(None, None, Target(column="age"))
    assert needed_bytes(given, an_input(), told, sweep) < needs[0]


def test_reading_and_putting_right_count_where_they_take_more():
    grid, sweep = Grid((64, 64, 64), np.eye(4)), Sweep((16, 16, 12), 0.5)
    few, told = make_task({1: "a"}, None, None), make_task(None, None, Target(column="age"))
    least = needed_bytes(Given(grid, 100), an_input(), few, sweep)
    assert needed_bytes(Given(grid, 100, least - 1), an_input(), few, sweep) == least
    assert needed_bytes(Given(grid, 100, least + 1), an_input(), few, sweep) == least + 1
    coarse = an_input(spacing_mm=(4, 4, 4))
    assert needed_bytes(Given(grid, 100, 0, True), coarse, few, sweep) == 100 + 13 * 64**3
    alone = needed_bytes(Given(grid, 100), an_input(), told, sweep)
    assert needed_bytes(Given(grid, 100, 0, True), an_input(), told, sweep) == alone


def test_files_on_other_grids_than_the_first_take_more_to_read():
    near, far = Grid((40, 40, 40), np.eye(4)), Grid((40, 40, 40), np.diag([1.1, 1, 1, 1]))
    assert reading_bytes([near] * 3) == 4 * 4 * 40**3
    assert reading_bytes([near, far]) > 4 * 4 * 40**3


@pytest.mark.parametrize("spacing_mm", [20.0, 60.0, 1e17])
def test_a_scan_far_too_large_is_refused_however_many_windows_it_has(spacing_mm):
    given = Given(Grid((256, 256, 200), np.diag([*[spacing_mm] * 3, 1])), 2 * 256 * 256 * 200)
    with pytest.raises(
        ScanError, match=r"^a: (needs .* GB of memory beside the network, 8\.00 GB|\d.* more than can be)"
    ):
        fitting("a", given, an_input(spacing_mm=(1.5, 1.5, 1.5)), LABELLED, Sweep((16, 16, 12), 0.9), 8 * 10**9)


def test_a_sweep_that_fits_stays_as_it_is_and_others_are_found():
    given = Given(Grid((32, 32, 320), np.eye(4)), 4 * 32 * 32 * 320)
    sweep = Sweep((16, 16, 12), 0.5, batch=8)
    need = needed_bytes(given, an_input(), LABELLED, sweep)
    assert fitting("a", given, an_input(), LABELLED, sweep, need) == (sweep, need)
    smaller, less = fitting("a", given, an_input(), LABELLED, sweep, need - 1)
    assert smaller == Sweep((16, 16, 12), 0.5) and less < need
    turned, least = fitting("a", given, an_input(), LABELLED, sweep, less - 1)
    assert turned == Sweep((16, 16, 12), 0.5, axis=2) and least < less
    with pytest.raises(ScanError, match=r"a: needs \d\.\d MB of memory beside the network, 0\.0 MB are left"):
        fitting("a", given, an_input(), LABELLED, sweep, least - 1 - least)


def test_a_scan_that_would_not_fit_is_refused_before_its_voxels_are_read(tmp_path, monkeypatch):
    model = save_model(tmp_path / "m.onnx")
    scan = save_scan(tmp_path / "a.nii", noise((400, 60, 60)))
    scan.write_bytes(scan.read_bytes()[:1000])
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    with pytest.raises(ScanError, match=r"a\.nii: needs .* MB of memory beside the network, 1\.0 MB are left"):
        Segmenter(model)(scan)


def test_the_mask_is_the_same_whatever_memory_there_is(tmp_path):
    scan, model = save_scan(tmp_path / "a.nii", noise((20, 18, 40))), save_model(tmp_path / "m.onnx")
    segment = Segmenter(model, manner=Manner(batch=4, skip_background=True, overlap=0.25))
    assert segment.overlap == 0.25 and segment.plan(scan)[0].batch == 4
    np.testing.assert_array_equal(segment(scan).voxels, counted(noise((20, 18, 40)) / 1000))


def test_what_runs_a_model_and_what_a_scan_will_take_is_said(tmp_path):
    scan, model = save_scan(tmp_path / "a.nii", noise()), save_model(tmp_path / "m.onnx")
    said = []
    segment_files(model, [scan], tmp_path / "out", manner=Manner(memory_bytes=10**12), note=said.append)
    assert said[0].startswith("run by ") and "tensorrt: " in said[0]
    assert said[1].startswith("a.nii: at most 0.2 MB of memory beside the network")


def test_a_constant_part_of_a_scan_is_background_where_it_is_skipped(tmp_path):
    voxels = np.zeros((48, 16, 12), np.int16)
    voxels[:16] = noise((16, 16, 12))
    about = metadata(labels={1: "All"})
    # a model that sees label 1 everywhere
    model = save_model(tmp_path / "m.onnx", about, graph=linear_graph([[0], [0]], [0, 1]))
    scan = save_scan(tmp_path / "a.nii", voxels)
    assert Segmenter(model)(scan).voxels.all()
    drawn = Segmenter(model, manner=Manner(skip_background=True))(scan).voxels
    assert drawn[:16].all() and not drawn[24:].any()


def test_a_manner_changes_how_windows_go_over_a_scan(tmp_path):
    scan, about = save_scan(tmp_path / "a.nii", noise()), metadata(flip_axes=(0, 2))
    model = save_model(tmp_path / "m.onnx", about)
    manner = Manner(overlap=0.25, batch=2, skip_background=True, within_body=True, mirror="card")
    sweep = Sweep(ROI, 0.25, 2, skip_constant=True, within_body=True, mirror=(0, 2))
    assert Segmenter(model, Choice(threads=1), manner).plan(scan)[0] == sweep
    assert Segmenter(model, manner=Manner(mirror=(1,))).plan(scan)[0].mirror == (1,)


def test_left_and_right_change_places_in_mirrored_views(tmp_path):
    sides = {1: "Right", 2: "Left"}
    model = save_model(tmp_path / "m.onnx", metadata(labels=sides, flip_axes=(0,), sided_labels=((1, 2),)))
    sweep, needed = Segmenter(model, manner=Manner(mirror="card")).plan(scan := save_scan(tmp_path / "a.nii", noise()))
    assert sweep.mirror == (0,) and sweep.swapped == (0, 2, 1)
    assert needed - Segmenter(model, manner=Manner(mirror=(1,))).plan(scan)[1] == 4 * 3 * prod(ROI)
    unpaired = save_model(tmp_path / "u.onnx", metadata(labels=sides))
    with pytest.raises(ExportError, match=r"u\.onnx: mirrored along X, Right would be Left: name them in"):
        Segmenter(unpaired, manner=Manner(mirror=(0, 2)))
    assert Segmenter(unpaired, manner=Manner(mirror=(1, 2))).plan(scan)[0].swapped == ()


def test_axes_of_a_card_that_has_none_are_refused(tmp_path):
    with pytest.raises(ExportError, match="no crops were mirrored in its training; name the axes"):
        Segmenter(save_model(tmp_path / "m.onnx"), manner=Manner(mirror="card"))


def test_whole_numbers_are_held_as_they_are_stored(tmp_path):
    segment = Segmenter(save_model(tmp_path / "m.onnx"))
    scans = [save_scan(tmp_path / f"{kind}.nii", noise((40, 40, 40)).astype(kind)) for kind in ("int16", "float32")]
    less, more = (segment.plan(scan)[1] for scan in scans)
    assert more - less == 2 * 40**3
    assert segment.read(scans[0]).voxels.dtype == np.int16
    np.testing.assert_array_equal(segment(scans[0]).voxels, segment(scans[1]).voxels)
