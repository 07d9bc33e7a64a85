"""A folder of scans: what is done stays done and is believed only while it is true, whatever ends the process."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from thresholds import (
    LABELS,
    OBLIQUE,
    an_input,
    ball,
    counted,
    dice,
    linear_graph,
    metadata,
    noise,
    save_model,
    save_scan,
    threshold_graph,
    with_content,
)

from mimzoo import cli
from mimzoo.deploy import Choice, Manner, Polish, models, segment_files
from mimzoo.deploy import folder as folders
from mimzoo.deploy.folder import list_scans
from mimzoo.deploy.overlays import FOLDER as OVERLAYS
from mimzoo.deploy.records import FOLDER as RECORDS
from mimzoo.deploy.records import read_record, record_path
from mimzoo.errors import DataError
from mimzoo.masks import read_labels

CPU = Choice(engine="cpu", threads=1)


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "thresholds.onnx")


@pytest.fixture
def scans(tmp_path):
    """A folder of three scans, and a file that is none."""
    for number, name in enumerate(("a.nii.gz", "b.nii", "c.nii.gz")):
        save_scan(tmp_path / "in" / name, noise(seed=number))
    with_content(tmp_path / "in" / "notes.txt", b"")
    return tmp_path / "in"


@pytest.fixture
def regions(tmp_path):
    """A model of Whole (above 400) and Core (above 700)."""
    about = metadata(regions={"Core": ("Hard",), "Whole": ("Soft", "Hard")})
    return save_model(tmp_path / "regions.onnx", about, graph=linear_graph([[1], [1]], [-0.4, -0.7]))


def two_channels(path):
    about = metadata(input=an_input(channels=("T1", "T2")))
    return save_model(path, about, graph=linear_graph([[0, 0], [0, 1], [0, 2]], [0, -0.4, -1.1]))


def segment(model, scans, out, **options):
    """Segment, and return which scans were computed, the masks, and the failures."""
    said = []
    done, failures = segment_files(model, [scans], out, choice=CPU, note=said.append, **options)
    return [line.split(":")[0] for line in said if ": at most " in line], done, failures


def masks_in(folder):
    """Masks and whatever a writer left half-written, by name."""
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith((".nii", ".nii.gz", ".part")))


def table(out):
    with (out / "statistics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- what is done


def test_a_folder_gives_a_mask_a_record_and_a_picture_for_each_scan_and_statistics_of_all(model, scans, tmp_path):
    out = tmp_path / "out"
    computed, done, failures = segment(model, scans, out)
    assert computed == ["a.nii.gz", "b.nii", "c.nii.gz"] and not failures
    assert done == [out / f"{name}.nii.gz" for name in "abc"]
    for number, path in enumerate(done):
        np.testing.assert_array_equal(read_labels(path).voxels, counted(noise(seed=number) / 1000))
    assert sorted(path.name for path in (out / OVERLAYS).iterdir()) == ["a.png", "b.png", "c.png"]
    record = read_record(record_path(out, "b"))
    assert record.holds(out) and record.files[0].path == str(scans / "b.nii")
    assert [(row["scan"], row["label"]) for row in table(out)] == [(s, name) for s in "abc" for name in LABELS.values()]
    assert [scan["scan"] for scan in json.loads((out / "statistics.json").read_text())["scans"]] == ["a", "b", "c"]


def test_what_is_done_is_not_done_again(model, scans, tmp_path):
    _, done, _ = segment(model, scans, tmp_path / "out")
    before = [path.stat().st_mtime_ns for path in done]
    seen = []
    again = segment(model, scans, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert again == ([], done, []) and [path.stat().st_mtime_ns for path in done] == before
    assert seen == [(1, 3, "a.nii.gz"), (2, 3, "b.nii"), (3, 3, "c.nii.gz")]


def cut_mask(scans, out):
    content = (out / "b.nii.gz").read_bytes()
    (out / "b.nii.gz").write_bytes(content[: len(content) // 2])


def changed_mask(scans, out):
    content = bytearray((out / "b.nii.gz").read_bytes())
    content[-20] ^= 1
    (out / "b.nii.gz").write_bytes(content)


def half_record(out):
    content = record_path(out, "b").read_bytes()
    record_path(out, "b").write_bytes(content[: len(content) // 2])


CHANGES = {
    "a mask that is cut short": cut_mask,
    "a mask of as many other bytes": changed_mask,
    "no mask": lambda scans, out: (out / "b.nii.gz").unlink(),
    "no mask and no record": lambda scans, out: [path.unlink() for path in (out / "b.nii.gz", record_path(out, "b"))],
    "no mask and half a record": lambda scans, out: [(out / "b.nii.gz").unlink(), half_record(out)],
    "another scan": lambda scans, out: save_scan(scans / "b.nii", noise(seed=7)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_longer_true_is_done_again_and_nothing_else(change, model, scans, tmp_path):
    segment(model, scans, tmp_path / "out")
    change(scans, tmp_path / "out")
    computed, _, failures = segment(model, scans, tmp_path / "out")
    assert computed == ["b.nii"] and not failures
    expected = counted(nib.load(scans / "b.nii").get_fdata() / 1000)
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "b.nii.gz").voxels, expected)


def test_another_model_or_other_settings_do_all_again_but_those_that_only_spare_memory_do_not(scans, tmp_path):
    first, second = (save_model(tmp_path / f"{t}.onnx", thresholds=(0.1 * t, 0.9)) for t in (4, 5))
    out = tmp_path / "out"
    runs = [
        (first, {}, 3),
        (second, {}, 3),
        (second, {"manner": Manner(batch=2, memory_bytes=10**11)}, 0),
        (second, {"manner": Manner(overlap=0.25)}, 3),
        (second, {"manner": Manner(overlap=0.25, skip_background=True)}, 3),
    ]
    assert [len(segment(model, scans, out, **options)[0]) for model, options, _ in runs] == [n for *_, n in runs]
    # the table is of the masks as they are now
    assert len(table(out)) == 6


def test_a_failure_is_recorded_and_tried_again(model, scans, tmp_path):
    whole, out = (scans / "b.nii").read_bytes(), tmp_path / "out"
    (scans / "b.nii").write_bytes(whole[:2000])
    computed, done, failures = segment(model, scans, out)
    assert computed == ["a.nii.gz", "c.nii.gz"] and [path.name for path in done] == ["a.nii.gz", "c.nii.gz"]
    assert len(failures) == 1 and "b.nii" in failures[0]
    assert read_record(record_path(out, "b")).failure == failures[0]
    assert {row["scan"] for row in table(out)} == {"a", "c"}
    (scans / "b.nii").write_bytes(whole)
    assert segment(model, scans, out)[0] == ["b.nii"] and {row["scan"] for row in table(out)} == {"a", "b", "c"}


def test_regions_are_done_where_each_of_their_masks_is(regions, scans, tmp_path):
    out = tmp_path / "out"
    segment(regions, scans, out)
    assert segment(regions, scans, out)[0] == []
    (out / "a-Core.nii.gz").unlink()
    computed, done, _ = segment(regions, scans, out)
    assert computed == ["a.nii.gz"] and len(done) == 6
    rows = [(row["mask"], int(row["voxels"])) for row in table(out) if row["scan"] == "a"]
    expected = [("a-Whole.nii.gz", (noise() > 400).sum()), ("a-Core.nii.gz", (noise() > 700).sum())]
    assert rows == expected


def test_masks_are_put_right_before_they_are_written(model, tmp_path):
    pytest.importorskip("cc3d")
    voxels = np.zeros((20, 18, 15), np.int16)
    voxels[2:8, 2:8, 2:8] = 500
    voxels[12:14, 12:14, 10:12] = 500
    save_scan(tmp_path / "in" / "a.nii.gz", voxels)
    for polish, expected in ((Polish(), 224), (Polish(largest_component=("all",)), 216)):
        computed, done, _ = segment(model, tmp_path / "in", tmp_path / "out", polish=polish)
        assert computed == ["a.nii.gz"] and np.count_nonzero(read_labels(done[0]).voxels) == expected
        assert int(table(tmp_path / "out")[0]["voxels"]) == expected


def test_doubts_are_said_and_recorded(model, tmp_path):
    save_scan(tmp_path / "in" / "a.nii.gz", noise(), np.diag([1, 1, 5, 1]))
    said = []
    segment_files(model, [tmp_path / "in"], tmp_path / "out", choice=CPU, note=said.append)
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "1 x 1 x 5 mm" in warning
    assert read_record(record_path(tmp_path / "out", "a")).warnings == (warning.removeprefix("warning: "),)


# --- what is not lost


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("of", ["model", "regions"])
def test_a_file_under_a_masks_name_without_a_record_stays_and_fails_its_scan(request, of, scans, tmp_path):
    model, out = request.getfixturevalue(of), tmp_path / "out"
    name = {"model": "b.nii.gz", "regions": "b-Core.nii.gz"}[of]
    out.mkdir()
    theirs = with_content(out / name, b"drawn by hand")
    for _ in range(2):
        _, done, failures = segment(model, scans, out)
        assert {path.name[0] for path in done} == {"a", "c"} and theirs.read_bytes() == b"drawn by hand"
        assert len(failures) == 1 and failures[0].startswith(f"{theirs}: is there already, and no record says")
        assert "choose another folder" in failures[0] and not any(out.glob("*kept*"))
    theirs.rename(tmp_path / "moved")
    assert segment(model, scans, out)[0] == ["b.nii"] and theirs.is_file()


def test_masks_of_scans_with_the_same_name_in_another_folder_stay_with_all_that_tells_of_them(model, scans, tmp_path):
    out, others = tmp_path / "out", tmp_path / "others"
    segment(model, scans / "b.nii", out)
    before = contents(out), contents(out / RECORDS), contents(out / OVERLAYS)
    save_scan(others / "b.nii", noise(seed=8))
    _, done, failures = segment(model, others / "b.nii", out)
    remedy = "choose another folder, or move it away"
    owner = f"is a mask of {scans / 'b.nii'}, which that of {others / 'b.nii'} would replace"
    assert done == [] and failures == [f"{out / 'b.nii.gz'}: {owner}; {remedy}"]
    # nor does it where the other scan cannot even be read
    with_content(others / "b.nii", b"no scan")
    assert len(segment(model, others / "b.nii", out)[2]) == 1
    assert (contents(out), contents(out / RECORDS), contents(out / OVERLAYS)) == before
    assert segment(model, scans, out)[0] == ["a.nii.gz", "c.nii.gz"]


def test_a_model_of_regions_leaves_the_labels_of_another_scan_with_their_record(model, regions, scans, tmp_path):
    out = tmp_path / "out"
    segment(model, scans / "b.nii", out)
    save_scan(tmp_path / "others" / "b.nii", noise(seed=8))
    _, done, failures = segment(regions, tmp_path / "others" / "b.nii", out)
    assert done == [] and "is a mask of" in failures[0]
    # of the same scan it draws beside them, and either model finds its own again
    assert len(segment(regions, scans / "b.nii", out)[1]) == 2
    assert segment(model, scans / "b.nii", out) == (["b.nii"], [out / "b.nii.gz"], [])
    assert masks_in(out) == ["b-Core.nii.gz", "b-Whole.nii.gz", "b.nii.gz"]


def test_a_scan_with_another_second_channel_is_another_scan(tmp_path):
    model, out = two_channels(tmp_path / "m.onnx"), tmp_path / "out"
    t1, t2, flair = (save_scan(tmp_path / f"{name}.nii", noise(seed=n)) for n, name in enumerate(("t1", "t2", "flair")))
    first, second = f"{t1},{t2}", f"{t1},{flair}"
    segment(model, first, out)
    before = contents(out)
    _, done, failures = segment(model, second, out)
    assert done == [] and f"is a mask of {first}, which that of {second} would replace" in failures[0]
    assert contents(out) == before


def test_a_scan_that_loses_a_channel_and_gets_it_back_keeps_its_mask(tmp_path):
    model, out = two_channels(tmp_path / "m.onnx"), tmp_path / "out"
    files = [save_scan(tmp_path / "in" / f"a_000{n}.nii", noise(seed=n)) for n in range(2)]
    segment(model, tmp_path / "in", out)
    before = contents(out)
    for path, sentence in zip(files, ("there is no a_0000.nii.gz", "is a mask of"), strict=True):
        path.rename(tmp_path / "away")
        assert sentence in segment(model, tmp_path / "in", out)[2][0]
        (tmp_path / "away").rename(path)
    assert segment(model, tmp_path / "in", out)[0] == [] and contents(out) == before


@pytest.mark.parametrize("change", [cut_mask, changed_mask])
def test_a_mask_that_was_changed_is_kept_beside_the_new_one(change, model, scans, tmp_path):
    out = tmp_path / "out"
    segment(model, scans, out)
    whole, kept = (out / "b.nii.gz").read_bytes(), []
    for number in (1, 2):
        change(scans, out)
        kept.append((out / "b.nii.gz").read_bytes())
        said = []
        done, failures = segment_files(model, [scans], out, choice=CPU, note=said.append)
        assert not failures and len(done) == 3 and (out / "b.nii.gz").read_bytes() == whole
        sentence = f"{out / 'b.nii.gz'}: is not as it was written, so it is kept, as b.nii.gz.kept-{number}"
        assert said.count(sentence) == 1
    assert [(out / f"b.nii.gz.kept-{number}").read_bytes() for number in (1, 2)] == kept
    # nobody takes it for a scan, or for a mask of ours
    assert list_scans([out], 1, tmp_path)[0] == [(out / f"{name}.nii.gz",) for name in "abc"]
    assert segment(model, scans, out)[0] == [] and {row["scan"] for row in table(out)} == set("abc")


def test_of_regions_only_what_was_changed_is_kept(regions, scans, tmp_path):
    out = tmp_path / "out"
    segment(regions, scans, out)
    changed = with_content(out / "a-Core.nii.gz", b"by hand")
    segment(regions, scans, out)
    assert [path.name for path in out.glob("*kept*")] == ["a-Core.nii.gz.kept-1"] and changed.stat().st_size > 7


def test_a_changed_mask_is_kept_by_another_model_and_after_a_failure_too(model, scans, tmp_path):
    out, whole = tmp_path / "out", (scans / "b.nii").read_bytes()
    segment(model, scans, out)
    with_content(out / "b.nii.gz", b"by hand")
    (scans / "b.nii").write_bytes(whole[:2000])
    assert len(segment(model, scans, out)[2]) == 1 and (out / "b.nii.gz").read_bytes() == b"by hand"
    (scans / "b.nii").write_bytes(whole)
    other = save_model(tmp_path / "other.onnx", thresholds=(0.5, 0.9))
    assert segment(other, scans, out)[2] == []
    # those that nobody changed gave way
    assert [path.name for path in out.glob("*kept*")] == ["b.nii.gz.kept-1"]
    assert (out / "b.nii.gz.kept-1").read_bytes() == b"by hand"


def test_a_scan_that_is_gone_and_comes_back_finds_its_mask(model, scans, tmp_path):
    out, scan = tmp_path / "out", scans / "b.nii"
    segment(model, scan, out)
    scan.rename(tmp_path / "away")
    assert segment(model, scan, out)[2] == [f"{scan}: no such file"]
    (tmp_path / "away").rename(scan)
    assert segment(model, scan, out) == (["b.nii"], [out / "b.nii.gz"], []) and masks_in(out) == ["b.nii.gz"]
    # while it is gone, another one of its name does not take its place either
    scan.unlink()
    segment(model, scan, out)
    save_scan(tmp_path / "others" / "b.nii", noise(seed=8))
    assert "is a mask of" in segment(model, tmp_path / "others" / "b.nii", out)[2][0]


def test_a_mask_that_appears_while_its_scan_is_computed_stays(model, scans, tmp_path):
    out, theirs = tmp_path / "out", tmp_path / "out" / "b.nii.gz"
    said = lambda sentence: sentence.startswith("b.nii: at most") and with_content(theirs, b"theirs")  # noqa: E731
    done, failures = segment_files(model, [scans], out, choice=CPU, note=said)
    assert len(done) == 2 and "is there already" in failures[0] and theirs.read_bytes() == b"theirs"


# --- where masks lie

TURNED = {
    "plain": np.diag([1.0, 1, 1, 1]),
    "flipped": np.diag([-1.0, -1, 1, 1]),
    "anisotropic": np.diag([0.7, 0.9, 3, 1]),
    "permuted": np.eye(4)[[2, 0, 1, 3]] * [1, -1, 1, 1],
    "oblique": OBLIQUE,
}


def test_masks_lie_where_their_scans_do_and_keep_their_shape_at_twice_the_spacing(tmp_path):
    about = metadata(input=an_input(spacing_mm=(1.6, 1.6, 1.6)), labels={1: "Ball"})
    model, inside = save_model(tmp_path / "m.onnx", about, thresholds=(0.5,)), {}
    for name, turn in TURNED.items():
        affine = turn.copy()
        # 0.8 mm along each axis, but in one
        affine[:3, :3] *= 1 if name in ("anisotropic", "oblique") else 0.8
        shape = (44, 60, 24) if name == "oblique" else (56, 52, 48)
        affine[:3, 3] = [311.7, -142.3, -987.1]
        centre = (affine @ [*(np.array(shape) - 1) / 2, 1])[:3]
        voxels, inside[name] = ball(shape, affine, centre, radius_mm=16.0)
        save_scan(tmp_path / "in" / f"{name}.nii.gz", voxels, affine)
    _, done, failures = segment(model, tmp_path / "in", tmp_path / "out")
    assert not failures and len(done) == len(TURNED)
    for path in done:
        scan, mask = nib.load(tmp_path / "in" / path.name), nib.load(path)
        assert mask.shape == scan.shape
        corners = np.stack([*np.meshgrid(*((0, n - 1) for n in scan.shape), indexing="ij"), np.ones((2, 2, 2))])
        np.testing.assert_allclose(*(np.tensordot(one.affine, corners, 1) for one in (mask, scan)), rtol=0, atol=1e-4)
        assert dice(np.asarray(mask.dataobj) == 1, inside[path.name.removesuffix(".nii.gz")]) >= 0.97, path.name


# --- memory


def test_scans_are_read_one_by_one_where_there_is_no_room_for_two(model, scans, tmp_path, monkeypatch):
    events = []

    def telling(name, what):
        act = getattr(folders.Work, name)

        def told(self, *given):
            events.append(what)
            return act(self, *given)

        monkeypatch.setattr(folders.Work, name, told)

    telling("_read", "read")
    telling("_write", "write")
    monkeypatch.setattr(folders, "memory_left", lambda manner: 10)
    segment(model, scans, tmp_path / "out")
    assert events == ["read", "write"] * 3


# --- which scans a folder holds


def test_the_scans_of_a_folder_are_those_directly_in_it_by_name(tmp_path):
    for name in ("b.nii", "a.NII.GZ", "._a.nii", "c.img", "deep/d.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with_content(tmp_path / name, b"")
    expected = [(tmp_path / "a.NII.GZ",), (tmp_path / "b.nii",)]
    assert list_scans([tmp_path], 1, tmp_path / "out") == (expected, {})
    assert list_scans([str(tmp_path)], 1, tmp_path / "out") == (expected, {})
    alone = tmp_path / "deep" / "d.nii"
    assert list_scans([tmp_path, f"{alone},{alone}"], 1, tmp_path / "out") == ([*expected, (alone, alone)], {})


def test_files_named_as_nnunet_does_are_the_channels_of_one_scan(tmp_path):
    files = [with_content(tmp_path / f"{case}_000{n}.nii.gz", b"") for case in ("a_1", "b") for n in range(2)]
    alone = with_content(tmp_path / "c.nii.gz", b"")
    assert list_scans([tmp_path], 2, tmp_path / "out") == ([tuple(files[:2]), tuple(files[2:]), (alone,)], {})
    # to a model of one channel each of them is a scan
    assert list_scans([tmp_path], 1, tmp_path / "out") == ([(path,) for path in [*files, alone]], {})


MISNUMBERED = {
    "the first is missing": (("c_0001.nii", "c_0002.nii"), "c_0001.nii: there is no c_0000.nii.gz"),
    "one between is missing": (("c_0000.nii", "c_0002.nii"), "c_0002.nii: there is no c_0001.nii.gz"),
    "only the second is there": (("c_0001.nii",), "c_0001.nii: there is no c_0000.nii.gz"),
    "one is there twice": (("c_0000.nii", "c_0000.nii.gz"), "c_0000.nii.gz and c_0000.nii are both channel 0000"),
    "one is there twice beside another": (
        ("c_0000.nii", "c_0001.nii", "c_0001.nii.gz"),
        "c_0001.nii.gz and c_0001.nii are both channel 0001",
    ),
    "there is one too many": (("c_0000.nii", "c_0001.nii", "c_0002.nii"), "3 files where the model sees 2 channel(s)"),
    "there is one too few": (("c_0000.nii",), "c_0000.nii: the shape 20 x 18 x 15 has 1 channel where 2 channels"),
}


@pytest.mark.parametrize(("files", "sentence"), MISNUMBERED.values(), ids=MISNUMBERED)
def test_channels_that_are_missing_or_there_twice_fail_one_scan(files, sentence, tmp_path):
    for name in ("a_0000.nii", "a_0001.nii", *files, "d_0000.nii", "d_0001.nii"):
        save_scan(tmp_path / "in" / name, noise(seed=int("1" in name)))
    model = two_channels(tmp_path / "m.onnx")
    _, done, failures = segment(model, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in done] == ["a_0000.nii.gz", "d_0000.nii.gz"] == masks_in(tmp_path / "out")
    assert len(failures) == 1 and sentence in failures[0]
    np.testing.assert_array_equal(read_labels(done[0]).voxels, counted(noise(seed=1) / 1000))
    # whoever names files one by one says which channels they are
    named = ",".join(str(tmp_path / "in" / name) for name in ("d_0001.nii", "a_0001.nii"))
    assert len(segment_files(model, [named], tmp_path / "named", choice=CPU)[0]) == 1


@pytest.mark.parametrize(("out", "reason"), [("in", "would be taken for scans"), ("out", "holds no scans")])
def test_a_folder_that_cannot_be_done_is_refused(model, tmp_path, out, reason):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=reason):
        segment_files(model, [tmp_path / "in"], tmp_path / out)
    assert not (tmp_path / "out").exists()


# --- real processes

# The command line with a network that takes its time, and with a disk that stops half-way through a mask.
SLOW = """
import signal
import time
from mimzoo import cli
from mimzoo.deploy.graph import Graph
predict = Graph.predict
Graph.predict = lambda self, windows: (time.sleep({seconds}), predict(self, windows))[1]
# Whoever runs these tests in the background may have had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""
STUCK = """
import time
import nibabel
from mimzoo import cli
def write(image, stream):
    stream.write(b"half")
    stream.flush()
    time.sleep(100)
nibabel.Nifti1Image.to_stream = write
cli.main()
"""
# The command line that is killed as a file gets its name.
KILLED = """
import os
import signal
from pathlib import Path
from mimzoo import cli
replace = os.replace
def dying(source, target):
    hit = Path(target).name == "{name}" and Path(target).parent.name != "b.begun"
    if hit and "{moment}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if hit:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
cli.main()
"""


def begin(code, *arguments):
    command = [sys.executable, "-c", code, "segment", *map(str, arguments), "--engine", "cpu", "--threads", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command_line(*arguments):
    command = [sys.executable, "-m", "mimzoo", "segment", *map(str, arguments), "--engine", "cpu", "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def computed(said):
    return [line.split(":")[0] for line in said.splitlines() if ": at most " in line]


def test_a_process_killed_while_it_writes_leaves_no_mask_and_the_same_command_goes_on(model, scans, tmp_path):
    out = tmp_path / "out"
    segment(model, scans / "a.nii.gz", out)
    process = begin(STUCK, model, scans, "-o", out)
    wait_for(lambda: any(out.rglob(".b.nii.gz.*.part")))
    process.kill()
    process.communicate()
    assert masks_in(out)[1:] == ["a.nii.gz"] and masks_in(out)[0].startswith(".b.nii.gz.")
    done = command_line(model, scans, "-o", out)
    assert done.returncode == 0 and computed(done.stdout) == ["b.nii", "c.nii.gz"]
    assert masks_in(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"] and "3 masks in" in done.stdout
    assert sorted(path.name for path in (out / RECORDS).iterdir()) == [".lock", "a.json", "b.json", "c.json"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["b-Whole.nii.gz", "b-Core.nii.gz", "b.json"])
def test_a_process_killed_as_a_mask_or_record_gets_its_name_is_followed_by_one_that_goes_on(
    name, moment, regions, scans, tmp_path
):
    out = tmp_path / "out"
    for seed in (1, 7):
        # the second time masks of the scan as it was before are there
        save_scan(scans / "b.nii", noise(seed=seed))
        begin(KILLED.format(name=name, moment=moment), regions, scans / "b.nii", "-o", out).communicate(timeout=60)
        assert not any(out.glob("statistics.*"))
    done = command_line(regions, scans, "-o", out)
    assert done.returncode == 0 and "kept" not in done.stdout
    assert masks_in(out) == sorted(f"{case}-{region}.nii.gz" for case in "abc" for region in ("Whole", "Core"))
    for region, threshold in (("Whole", 400), ("Core", 700)):
        np.testing.assert_array_equal(read_labels(out / f"b-{region}.nii.gz").voxels, noise(seed=7) > threshold)
    names = sorted(path.name for path in (out / RECORDS).iterdir())
    assert names == [".lock", "a.json", "b.json", "c.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_end_leaves_what_is_whole(number, model, scans, tmp_path):
    out = tmp_path / "out"
    process = begin(SLOW.format(seconds=0.05), model, scans, "-o", out)
    wait_for(record_path(out, "a").is_file)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "mimzoo: interrupted; the same command goes on with what is left\n"
    whole = [path.stem for path in sorted((out / RECORDS).glob("*.json"))]
    assert whole in (["a"], ["a", "b"]) and masks_in(out) == [f"{name}.nii.gz" for name in whole]
    assert {row["scan"] for row in table(out)} == set(whole)


def test_two_processes_share_a_folder_and_one_takes_over_what_the_other_leaves(model, tmp_path):
    scans = tmp_path / "in"
    for number in range(6):
        save_scan(scans / f"{number}.nii", noise(seed=number))
    out = tmp_path / "out"
    # 8 windows for each scan: what the first takes in hand is in its hand for longer than the second takes to begin
    stopped = begin(SLOW.format(seconds=1), model, scans, "-o", out)
    wait_for((out / RECORDS / ".lock").is_file)
    others = [begin(SLOW.format(seconds=0.005), model, scans, "-o", out) for _ in range(2)]
    wait_for(lambda: len(list((out / RECORDS).glob("*.json"))) >= 3)
    assert stopped.poll() is None
    stopped.send_signal(signal.SIGKILL)
    stopped.communicate()
    said = [process.communicate(timeout=60) for process in others]
    assert [process.returncode for process in others] == [0, 0], said
    # every scan was computed once, by either of the two
    assert sorted(computed(said[0][0]) + computed(said[1][0])) == [f"{number}.nii" for number in range(6)]
    assert masks_in(out) == [f"{number}.nii.gz" for number in range(6)] and len(table(out)) == 12
    for number in range(6):
        np.testing.assert_array_equal(read_labels(out / f"{number}.nii.gz").voxels, counted(noise(seed=number) / 1000))


def test_of_two_processes_with_scans_of_one_name_the_second_leaves_the_mask_of_the_first(model, tmp_path):
    ours, theirs, out = tmp_path / "ours" / "a.nii", tmp_path / "theirs" / "a.nii", tmp_path / "out"
    for seed, path in enumerate((ours, theirs)):
        save_scan(path, noise(seed=seed))
    first = begin(SLOW.format(seconds=0.5), model, ours, "-o", out)
    wait_for((out / RECORDS / ".lock").is_file)
    second = command_line(model, theirs, "-o", out)
    first.communicate(timeout=60)
    assert first.returncode == 0 and second.returncode == 1
    assert "another process's; waiting" in second.stdout and f"is a mask of {ours}" in second.stderr
    np.testing.assert_array_equal(read_labels(out / "a.nii.gz").voxels, counted(noise(seed=0) / 1000))


def test_unreadable_scans_among_many_are_told_in_one_sentence_each(model, scans, tmp_path):
    for name, content in (("d.nii.gz", b""), ("e.nii", b"no scan"), ("f.nii.gz", b"\x1f\x8b no gzip")):
        with_content(scans / name, content)
    done = command_line(model, scans, "-o", tmp_path / "out")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "3 masks in" in done.stdout
    assert [line.split(":")[1].strip() for line in lines[:3]] == [
        str(scans / n) for n in ("d.nii.gz", "e.nii", "f.nii.gz")
    ]
    assert lines[3:] == ["mimzoo: 3 scan(s) failed; the same command tries them again, and no other"]


def test_a_file_name_that_is_no_text_fails_by_itself(model, scans, tmp_path):
    # as an ü of Windows-1252 or Latin-1 is
    save_scan(scans / os.fsdecode(b"M\xfcller.nii.gz"), noise())
    out = tmp_path / "out"
    done = command_line(model, scans, "-o", out)
    sentence = f"{scans}/M\\xfcller.nii.gz: the path is no UTF-8 text, so no record can name it; rename it"
    assert done.returncode == 1 and done.stderr.splitlines()[0] == f"mimzoo: {sentence}"
    assert masks_in(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"] and len(table(out)) == 6
    assert read_record(record_path(out, r"M\xfcller")).failure == sentence


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("dim")])
def test_whatever_a_reader_stumbles_on_fails_one_scan(error, model, scans, tmp_path, monkeypatch):
    real = models.read_form

    def stumbling(path, *given):
        if path.name == "b.nii":
            raise error
        return real(path, *given)

    monkeypatch.setattr(models, "read_form", stumbling)
    _, done, failures = segment(model, scans, tmp_path / "out")
    assert [path.name for path in done] == ["a.nii.gz", "c.nii.gz"]
    assert failures == [
        f"{scans / 'b.nii'}: the scan cannot be read ({type(error).__name__}: {error}); it may be damaged"
    ]
    assert read_record(record_path(tmp_path / "out", "b")).failure == failures[0]


def test_a_mistake_of_ours_ends_all_but_loses_nothing_that_is_done(model, scans, tmp_path, monkeypatch):
    out, real = tmp_path / "out", folders.draw_overlay

    def mistaken(path, *given):
        if path.stem == "b":
            raise ValueError("a mistake")
        real(path, *given)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a mistake"):
        patch.setattr(folders, "draw_overlay", mistaken)
        segment(model, scans, out)
    assert masks_in(out) in (["a.nii.gz"], ["a.nii.gz", "c.nii.gz"])
    assert {row["scan"] for row in table(out)} == {name[0] for name in masks_in(out)}
    computed, done, failures = segment(model, scans, out)
    assert "a.nii.gz" not in computed and "b.nii" in computed and len(done) == 3 and not failures


def tampered(path):
    model = onnx.load(save_model(path))
    model.metadata_props[0].value = model.metadata_props[0].value.replace("0.5", "0.6")
    onnx.save_model(model, path)


def with_weights_elsewhere(path):
    graph = threshold_graph()
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    graph.graph.initializer.append(tensor)
    save_model(path, graph=graph)


FAULTS = {
    "no metadata": (lambda path: save_model(path, props={}), [], "was not made by mimzoo"),
    "tampered metadata": (tampered, [], "the metadata was changed after the export"),
    "weights elsewhere": (with_weights_elsewhere, [], "keeps weights in another file ('../../secret.bin')"),
    "a channel too few": (two_channels, [], "has 1 channel where 2 channels are expected"),
    "too little memory": (save_model, ["--memory", "1MB"], "of memory beside the network, 0.0 MB are left for it"),
}


@pytest.mark.parametrize(("make", "options", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_model_or_scan_that_must_not_be_used_is_refused_and_no_mask_is_written(
    make, options, sentence, tmp_path, monkeypatch, capsys
):
    make(tmp_path / "m.onnx")
    save_scan(tmp_path / "in" / "a.nii.gz", noise())
    arguments = [tmp_path / "m.onnx", tmp_path / "in", "-o", tmp_path / "out", "--engine", "cpu", *options]
    monkeypatch.setattr(sys, "argv", ["mimzoo", "segment", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and sentence in said[0]
    assert all(line.startswith("mimzoo: ") for line in said)
    assert not (tmp_path / "out").exists() or masks_in(tmp_path / "out") == []
