"""Many scans at once: masks and tables, whole or not at all; what fails is named, and nothing is overwritten."""

import csv
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thresholds import (
    LABELS,
    an_input,
    counted,
    linear_graph,
    metadata,
    noise,
    save_model,
    save_scan,
    with_content,
)

from mimzoo.deploy import Choice, models, predict_files, segment_files, split_files, write_table
from mimzoo.errors import DataError, ExportError
from mimzoo.masks import read_labels
from mimzoo.tasks import Target


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "thresholds.onnx")


@pytest.fixture
def regions(tmp_path):
    """A model of Whole (above 400) and Core (above 700)."""
    about = metadata(regions={"Core": ("Hard",), "Whole": ("Soft", "Hard")})
    return save_model(tmp_path / "regions.onnx", about, graph=linear_graph([[1], [1]], [-0.4, -0.7]))


@pytest.fixture
def age(tmp_path):
    """A model that tells 20 years and 60 more for the mean of the window, of two channels the second."""
    about = metadata(input=an_input(channels=("T1", "T2")), labels=None, target=Target(column="age", unit="years"))
    return save_model(tmp_path / "age.onnx", about, graph=linear_graph([[0, 60]], [20], of_scan=True))


@pytest.fixture
def diagnosis(tmp_path):
    about = metadata(labels=None, target=Target(column="diagnosis", classes=("CN", "AD")))
    return save_model(tmp_path / "diagnosis.onnx", about, graph=linear_graph([[0], [4]], [0, -2], of_scan=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def masks_in(folder):
    """Masks and whatever a writer left half-written, by name."""
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith((".nii", ".nii.gz", ".part")))


# --- masks


def test_masks_are_written_one_by_one_and_a_bad_scan_stops_nothing(model, tmp_path):
    good = save_scan(tmp_path / "in" / "a.nii.gz", noise(seed=1)), save_scan(tmp_path / "in" / "c.nii", noise(seed=3))
    bad = with_content(tmp_path / "in" / "b.nii.gz", b"no scan")
    seen = []
    out = tmp_path / "deep" / "out"
    done, failures = segment_files(model, [good[0], bad, str(good[1])], out, lambda *step: seen.append(step))
    assert done == [out / "a.nii.gz", out / "c.nii.gz"]
    assert len(failures) == 1 and str(bad) in failures[0]
    assert seen == [(1, 3, "a.nii.gz"), (2, 3, "b.nii.gz"), (3, 3, "c.nii")]
    assert masks_in(out) == ["a.nii.gz", "c.nii.gz"]
    mask = read_labels(done[1])
    np.testing.assert_array_equal(mask.voxels, counted(noise(seed=3) / 1000))
    assert mask.names == LABELS


def test_the_same_scan_gives_the_same_file(model, tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", noise())
    (first,), _ = segment_files(model, [scan], tmp_path / "one")
    (second,), _ = segment_files(model, [scan], tmp_path / "two", choice=Choice(threads=1))
    assert first.read_bytes() == second.read_bytes()


def test_each_region_has_a_mask_of_its_own(regions, tmp_path):
    scans = [save_scan(tmp_path / f"{name}.nii", noise(seed=n)) for n, name in enumerate("ab")]
    out = tmp_path / "out"
    done, failures = segment_files(regions, scans, out)
    assert not failures
    assert done == [out / f"{case}-{region}.nii.gz" for case in "ab" for region in ("Whole", "Core")]
    assert masks_in(out) == sorted(path.name for path in done)
    for path, (seed, threshold) in zip(done, [(0, 400), (0, 700), (1, 400), (1, 700)], strict=True):
        np.testing.assert_array_equal(read_labels(path).voxels, noise(seed=seed) > threshold)
    assert read_labels(done[0]).names == {1: "Whole"} and read_labels(done[1]).names == {1: "Core"}


def test_files_joined_by_commas_are_the_channels_of_one_scan(tmp_path):
    about = metadata(input=an_input(channels=("T1", "T2")))
    known = linear_graph([[0, 0], [0, 1], [0, 2]], [0, -0.4, -1.1])
    model = save_model(tmp_path / "m.onnx", about, graph=known)
    files = [save_scan(tmp_path / "1,5 T" / f"{name}.nii.gz", noise(seed=n)) for n, name in enumerate(("t1", "t2"))]
    seen = []
    forth, back = (",".join(map(str, order)) for order in (files, files[::-1]))
    alone = save_scan(tmp_path / "alone.nii", noise())
    done, failures = segment_files(model, [forth, back, alone], tmp_path / "out", lambda *step: seen.append(step))
    assert [path.name for path in done] == ["t1.nii.gz", "t2.nii.gz"]
    np.testing.assert_array_equal(read_labels(done[0]).voxels, counted(noise(seed=1) / 1000))
    np.testing.assert_array_equal(read_labels(done[1]).voxels, counted(noise(seed=0) / 1000))
    assert "2 channels are expected" in failures[0]
    assert [name for *_, name in seen] == ["t1.nii.gz", "t2.nii.gz", "alone.nii"]


@pytest.mark.parametrize("second", ["y/a.nii.gz", "x/a.nii", "x/a.nii.gz"])
def test_two_scans_with_one_mask_are_refused_before_starting(model, tmp_path, second):
    scans = [save_scan(tmp_path / "x" / "a.nii.gz", noise()), save_scan(tmp_path / second, noise())]
    with pytest.raises(
        DataError, match=r"would both be written to .*a\.nii\.gz; rename one, or put it into another folder"
    ):
        segment_files(model, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_scans_with_one_mask_for_a_region_are_refused_before_starting(tmp_path):
    about = metadata(regions={"b-Core": ("Hard",), "Core": ("Hard",)})
    model = save_model(tmp_path / "m.onnx", about, graph=linear_graph([[1], [1]], [-0.7, -0.7]))
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "a-b.nii")]
    with pytest.raises(DataError, match=r"a\.nii and .*a-b\.nii would both be written to .*a-b-Core\.nii\.gz"):
        segment_files(model, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_that_would_overwrite_a_scan_is_refused_before_starting(model, tmp_path):
    scans = [save_scan(tmp_path / "in" / name, noise()) for name in ("b.nii.gz", "a.nii")]
    before = scans[0].read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(DataError, match="would overwrite a scan"):
            segment_files(model, scans, folder)
    assert scans[0].read_bytes() == before


def test_a_mask_of_a_region_that_would_overwrite_a_channel_is_refused_before_starting(regions, tmp_path):
    scans = [save_scan(tmp_path / "in" / name, noise()) for name in ("a.nii.gz", "a-Core.nii.gz")]
    before = [path.read_bytes() for path in scans]
    for chosen in (scans, [",".join(map(str, scans))]):
        with pytest.raises(DataError, match=r"a-Core\.nii\.gz would overwrite a scan"):
            segment_files(regions, chosen, tmp_path / "in")
    assert [path.read_bytes() for path in scans] == before and masks_in(tmp_path / "in") == [
        "a-Core.nii.gz",
        "a.nii.gz",
    ]


def test_a_region_model_may_write_beside_its_scans(regions, tmp_path):
    scan = save_scan(tmp_path / "in" / "a.nii.gz", noise())
    done, _ = segment_files(regions, [scan], tmp_path / "in")
    assert masks_in(tmp_path / "in") == ["a-Core.nii.gz", "a-Whole.nii.gz", "a.nii.gz"] and len(done) == 2


def test_a_folder_that_cannot_be_made_is_refused(model, tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", noise())
    with pytest.raises(DataError, match="nothing can be written there"):
        segment_files(model, [scan], with_content(tmp_path / "file", b"") / "out")


def test_a_model_that_draws_no_masks_is_refused_before_starting(age, tmp_path):
    with pytest.raises(ExportError, match=r"age\.onnx: .* draws no masks .* use `mimzoo predict`"):
        segment_files(age, [save_scan(tmp_path / "a.nii.gz", noise())], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- half a file


def full_when(condition, monkeypatch, error=None):
    """Let the disk run full, or `error` happen, half-way through a file from when the condition holds."""
    written = nib.Nifti1Image.to_stream

    def write(image, stream):
        if condition():
            stream.write(b"half")
            raise error or OSError(28, "No space left on device")
        written(image, stream)

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", write)


def test_a_full_disk_leaves_no_half_written_mask(model, tmp_path, monkeypatch):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    full_when((tmp_path / "out" / "a.nii.gz").exists, monkeypatch)
    done, failures = segment_files(model, scans, tmp_path / "out")
    assert [p.name for p in done] == ["a.nii.gz"] == masks_in(tmp_path / "out")
    assert "No space left" in failures[0]


def test_a_full_disk_leaves_no_half_of_the_regions(regions, tmp_path, monkeypatch):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    full_when(lambda: any((tmp_path / "out").rglob("b-Whole.nii.gz")), monkeypatch)
    done, failures = segment_files(regions, scans, tmp_path / "out")
    assert [p.name for p in done] == ["a-Whole.nii.gz", "a-Core.nii.gz"]
    assert masks_in(tmp_path / "out") == ["a-Core.nii.gz", "a-Whole.nii.gz"]
    assert len(failures) == 1 and "No space left" in failures[0]


def test_memory_that_runs_out_fails_one_scan(model, tmp_path, monkeypatch):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    real = models.stream

    def scarce(volume, block):
        if volume.name.endswith("a.nii"):
            raise MemoryError
        return real(volume, block)

    monkeypatch.setattr(models, "stream", scarce)
    done, failures = segment_files(model, scans, tmp_path / "out")
    assert [p.name for p in done] == ["b.nii.gz"]
    assert "out of memory" in failures[0] and "a.nii" in failures[0]


def test_an_interruption_leaves_nothing_behind(model, regions, tmp_path, monkeypatch):
    scan = save_scan(tmp_path / "a.nii", noise())
    full_when(lambda: any((tmp_path / "out").rglob("a-Whole.nii.gz")), monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        segment_files(regions, [scan], tmp_path / "out")
    full_when(lambda: True, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        segment_files(model, [scan], tmp_path / "out")
    assert masks_in(tmp_path / "out") == []


# --- what is told of whole scans


def test_each_scan_is_told_of_by_its_name_as_given_and_a_bad_one_stops_nothing(diagnosis, tmp_path):
    low, high = np.zeros((16, 16, 12), np.int16), np.full((16, 16, 12), 1000, np.int16)
    low[0], high[0] = 10, 990
    scans = [str(save_scan(tmp_path / "a.nii", low)), tmp_path / "gone.nii", save_scan(tmp_path / "b.nii", high)]
    seen = []
    found, failures = predict_files(diagnosis, scans, lambda *step: seen.append(step))
    assert list(found) == [str(scans[0]), str(scans[2])]
    assert [max(told, key=told.get) for told in found.values()] == ["CN", "AD"]
    assert failures == [f"{scans[1]}: no such file"]
    assert seen == [(1, 3, "a.nii"), (2, 3, "gone.nii"), (3, 3, "b.nii")]


def test_files_joined_by_commas_are_told_of_together(age, tmp_path):
    files = [save_scan(tmp_path / f"t{n}.nii.gz", noise((16, 16, 12), n)) for n in (1, 2)]
    joined = ",".join(map(str, files))
    found, failures = predict_files(age, [joined], choice=Choice(threads=1))
    expected = 20 + 60 * np.clip(noise((16, 16, 12), 2) / 1000, 0, 1).mean()
    assert not failures and found == {joined: {"age": pytest.approx(expected, rel=1e-4)}}


# A byte that is no UTF-8 in a name, as an ü of Windows-1252 or Latin-1 is.
ODD = os.fsdecode(b"M\xfcller.nii.gz")


def test_a_file_name_that_is_no_text_fails_by_itself(diagnosis, tmp_path):
    odd, good = save_scan(tmp_path / ODD, noise()), save_scan(tmp_path / "b.nii", noise())
    seen = []
    found, failures = predict_files(diagnosis, [odd, good], lambda *step: seen.append(step))
    write_table(tmp_path / "table.csv", found)
    assert [row[0] for row in rows(tmp_path / "table.csv")] == ["scan", str(good)]
    assert failures == [f"{tmp_path}/M\\xfcller.nii.gz: the path is no UTF-8 text, so no record can name it; rename it"]
    assert seen == [(1, 2, r"M\xfcller.nii.gz"), (2, 2, "b.nii")]


@pytest.mark.parametrize("error", [ValueError("no\nsense"), KeyError("dim"), IndexError(7), OverflowError("far")])
def test_whatever_a_reader_stumbles_on_fails_one_scan(diagnosis, tmp_path, monkeypatch, error):
    scans = [save_scan(tmp_path / name, noise()) for name in ("a.nii", "b.nii")]
    real = models.read_scan

    def stumbling(files, *given):
        if files[0].name == "a.nii":
            raise error
        return real(files, *given)

    monkeypatch.setattr(models, "read_scan", stumbling)
    found, failures = predict_files(diagnosis, scans)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert list(found) == [str(scans[1])]
    assert failures == [f"{scans[0]}: the scan cannot be read ({reason}); it may be damaged"]


def test_a_link_in_a_circle_fails_by_itself(model, diagnosis, tmp_path):
    circle, good = tmp_path / "a.nii", save_scan(tmp_path / "b.nii", noise())
    circle.symlink_to(circle)
    for found, failures in (
        predict_files(diagnosis, [circle, good]),
        segment_files(model, [circle, good], tmp_path / "o"),
    ):
        assert len(found) == len(failures) == 1 and str(circle) in failures[0]


def test_a_scan_that_is_given_twice_is_refused(diagnosis, tmp_path):
    scan = save_scan(tmp_path / "a.nii", noise())
    with pytest.raises(DataError, match="given twice"):
        predict_files(diagnosis, [scan, str(scan)])


@pytest.mark.parametrize("kind", ["model", "regions"])
def test_a_model_that_draws_masks_tells_nothing(request, kind, tmp_path):
    with pytest.raises(ExportError, match=r"\.onnx: .* draws masks; use `mimzoo segment`"):
        predict_files(request.getfixturevalue(kind), [])


# --- the table


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_table_has_a_row_for_each_scan_with_six_digits(tmp_path):
    found = {"t1.nii,t2.nii": {"CN": 0.123456789, "AD": 0.876543211}, "ä\nb.nii": {"CN": 1.0, "AD": 1e-9}}
    write_table(tmp_path / "new" / "table.csv", found)
    assert rows(tmp_path / "new" / "table.csv") == [
        ["scan", "CN", "AD"],
        ["t1.nii,t2.nii", "0.123457", "0.876543"],
        ["ä\nb.nii", "1", "1e-09"],
    ]
    assert names(tmp_path / "new") == ["table.csv"]


def test_a_table_of_nothing_has_a_head_all_the_same(tmp_path):
    write_table(tmp_path / "table.csv", {})
    assert rows(tmp_path / "table.csv") == [["scan"]]


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path):
    write_table(tmp_path / "table.csv", {"a.nii": {"age": 71.5}})
    with pytest.raises(KeyError):
        write_table(tmp_path / "table.csv", {"b.nii": {"age": 1.0}, "c.nii": {}})
    assert rows(tmp_path / "table.csv") == [["scan", "age"], ["a.nii", "71.5"]] and names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("path", ["folder", "file/table.csv"])
def test_a_table_that_cannot_be_written_is_refused(tmp_path, path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="written"):
        write_table(tmp_path / path, {"a.nii": {"age": 71.5}})
    assert names(tmp_path) == ["file", "folder"]


# --- the files of a scan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.nii", ["a.nii"]),
        ("a.NII,b.nii.gz,c.nii", ["a.NII", "b.nii.gz", "c.nii"]),
        ("x,y/a.nii.gz,x,y/b.nii.gz", ["x,y/a.nii.gz", "x,y/b.nii.gz"]),
        ("1,5 T.nii", ["1,5 T.nii"]),
        ("a.nii,", ["a.nii,"]),
        ("a.nii,,b.nii", ["a.nii", ",b.nii"]),
        (",b.nii", [",b.nii"]),
    ],
)
def test_only_a_comma_after_a_nifti_ending_parts_two_files(text, expected):
    assert split_files(text) == tuple(map(Path, expected))


def test_a_path_is_one_file_whatever_its_name():
    assert split_files(Path("a.nii,b.nii")) == (Path("a.nii,b.nii"),)


@given(st.lists(st.sampled_from(["a.nii", "b.nii.gz", "x,y/c.nii", "d,.nii.gz"]), min_size=1, max_size=200))
def test_any_number_of_joined_files_is_parted_again(files):
    assert split_files(",".join(files)) == tuple(map(Path, files))
