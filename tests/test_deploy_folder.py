"""A folder of scans: what is done stays done and is believed only while it is true, whatever ends the process."""

import csv
import json
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
from mimzoo.deploy import Choice, Manner, Polish, segment_files
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


CHANGES = {
    "a mask that is cut short": cut_mask,
    "a mask of as many other bytes": changed_mask,
    "no mask": lambda scans, out: (out / "b.nii.gz").unlink(),
    "no record": lambda scans, out: record_path(out, "b").unlink(),
    "half a record": lambda scans, out: record_path(out, "b").write_bytes(record_path(out, "b").read_bytes()[:99]),
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


def test_regions_are_done_where_each_of_their_masks_is(scans, tmp_path):
    about = metadata(regions={"Core": ("Hard",), "Whole": ("Soft", "Hard")})
    model = save_model(tmp_path / "regions.onnx", about, graph=linear_graph([[1], [1]], [-0.4, -0.7]))
    out = tmp_path / "out"
    segment(model, scans, out)
    assert segment(model, scans, out)[0] == []
    (out / "a-Core.nii.gz").unlink()
    computed, done, _ = segment(model, scans, out)
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
    assert list_scans([tmp_path], 1, tmp_path / "out") == list_scans([str(tmp_path)], 1, tmp_path / "out") == expected
    alone = tmp_path / "deep" / "d.nii"
    assert list_scans([tmp_path, f"{alone},{alone}"], 1, tmp_path / "out") == [*expected, (alone, alone)]


def test_files_named_as_nnunet_does_are_the_channels_of_one_scan(tmp_path):
    files = [with_content(tmp_path / f"{case}_000{n}.nii.gz", b"") for case in ("a_1", "b") for n in range(2)]
    alone = with_content(tmp_path / "c.nii.gz", b"")
    assert list_scans([tmp_path], 2, tmp_path / "out") == [tuple(files[:2]), tuple(files[2:]), (alone,)]
    assert len(list_scans([tmp_path], 1, tmp_path / "out")) == 5


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
    wait_for(lambda: any(out.glob(".*.part")))
    process.kill()
    process.communicate()
    assert masks_in(out)[1:] == ["a.nii.gz"] and masks_in(out)[0].startswith(".b.nii.gz.")
    done = command_line(model, scans, "-o", out)
    assert done.returncode == 0 and computed(done.stdout) == ["b.nii", "c.nii.gz"]
    assert masks_in(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"] and "3 masks in" in done.stdout


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


def of_two_channels(path):
    about = metadata(input=an_input(channels=("T1", "T2")))
    save_model(path, about, graph=linear_graph([[0, 0], [0, 1], [0, 2]], [0, -0.4, -1.1]))


FAULTS = {
    "no metadata": (lambda path: save_model(path, props={}), [], "was not made by mimzoo"),
    "tampered metadata": (tampered, [], "the metadata was changed after the export"),
    "weights elsewhere": (with_weights_elsewhere, [], "keeps weights in another file ('../../secret.bin')"),
    "a channel too few": (of_two_channels, [], "has 1 channel where 2 channels are expected"),
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
