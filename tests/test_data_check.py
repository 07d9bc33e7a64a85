"""Looking through a data set: what is reported of good cases, and that nothing wrong goes unseen."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import typer
from scans import make_dataset, make_pair, save
from typer.testing import CliRunner

from mimzoo.cli_data import data_app
from mimzoo.data.check import check_dataset
from mimzoo.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Three training, one validation and one unlabelled case, with which nothing is wrong."""
    return make_dataset(tmp_path / "boxes", training=3, validation=1, unlabelled=1)


def image(folder, number):
    return folder / "images" / f"case_{number:03d}.nii.gz"


def label(folder, number):
    return folder / "labels" / f"case_{number:03d}.nii.gz"


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def problems(folder):
    found = check_dataset(folder).problems
    assert not any("\n" in problem for problem in found)
    return list(found)


def only_problem(folder):
    found = problems(folder)
    assert len(found) == 1, found
    return found[0]


def case_of(report, name):
    (found,) = (case for case in report.cases if case.case.id == name)
    return found


# --- what is reported -------------------------------------------------------------------------------------------------


def test_a_good_data_set_has_no_problems(folder):
    report = check_dataset(folder)
    assert report.problems == ()
    assert [(case.case.id, case.split) for case in report.cases] == [
        ("case_000", "training"),
        ("case_001", "training"),
        ("case_002", "training"),
        ("case_003", "validation"),
        ("case_004", "unlabelled"),
    ]


def test_a_case_is_described_as_its_files_are(folder):
    voxels, labels = make_pair(0)
    axes = np.array([[0, 0, 3.0, 5], [-1.0, 0, 0, 6], [0, 2.0, 0, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(voxels, axes), image(folder, 0))
    nib.save(nib.Nifti1Image(labels, axes), label(folder, 0))
    case = case_of(check_dataset(folder), "case_000")
    assert (case.shape, case.spacing_mm, case.orientation) == ((20, 24, 18), (1.0, 2.0, 3.0), "PSR")
    (intensity,) = case.intensities
    assert (intensity.minimum, intensity.maximum) == (voxels.min(), voxels.max())
    assert (intensity.low, intensity.median, intensity.high) == pytest.approx(np.percentile(voxels, [1, 50, 99]))
    assert case.label_voxels == {value: (labels == value).sum() for value in (1, 2)}
    assert case.label_ml == pytest.approx({value: (labels == value).sum() * 6 / 1000 for value in (1, 2)})
    assert case.aligned


def test_each_channel_of_a_4d_file_is_described(tmp_path):
    voxels = np.stack([make_pair(0)[0], 10 * make_pair(1)[0]], -1)
    save(tmp_path / "a.nii.gz", voxels)
    report = check_dataset(tmp_path)
    assert report.problems == ()
    assert [each.maximum for each in report.cases[0].intensities] == voxels.max((0, 1, 2)).tolist()


def test_each_file_of_a_case_is_a_channel(tmp_path):
    pair = [make_pair(number)[0] for number in range(2)]
    for name, voxels in zip("ab", pair, strict=True):
        save(tmp_path / f"{name}.nii.gz", voxels)
    table = {"modality": {"0": "T1", "1": "T2"}, "unlabelled": [{"image": ["a.nii.gz", "b.nii.gz"], "id": "ann"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    report = check_dataset(tmp_path)
    assert report.problems == ()
    assert [each.minimum for each in report.cases[0].intensities] == [voxels.min() for voxels in pair]


def test_other_stored_values_are_counted_as_labels(folder):
    for number in range(4):
        save(label(folder, number), np.array([0, 205, 820], np.int16)[make_pair(number)[1]])
    edit(folder, values={"205": 1, "820": 2})
    report = check_dataset(folder)
    assert report.problems == ()
    assert case_of(report, "case_001").label_voxels == {v: (make_pair(1)[1] == v).sum() for v in (1, 2)}


def test_progress_is_told(folder):
    told = []
    check_dataset(folder, progress=lambda done, total, case: told.append((done, total, case)))
    assert told[0] == (1, 5, "case_000") and told[-1] == (5, 5, "case_004")


# --- broken files -----------------------------------------------------------------------------------------------------


def test_missing_files_are_all_told_of_and_the_rest_is_read(folder):
    image(folder, 0).unlink()
    label(folder, 1).unlink()
    image(folder, 4).unlink()
    report = check_dataset(folder)
    assert [sentence.split(":")[0] for sentence in report.problems] == [
        "the image of case 'case_000' is missing",
        "the label of case 'case_001' is missing",
        "the image of case 'case_004' is missing",
    ]
    assert [case.shape is not None for case in report.cases] == [False, True, True, True, False]
    assert [case.label_voxels is not None for case in report.cases] == [True, False, True, True, False]


def test_broken_files_are_all_told_of(folder):
    whole = gzip.decompress(image(folder, 0).read_bytes())
    image(folder, 0).write_bytes(gzip.compress(whole[: len(whole) // 2]))
    image(folder, 1).write_bytes(b"no scan at all")
    label(folder, 2).write_bytes(b"")
    voxels = make_pair(3)[0]
    voxels[0, 0, 0] = np.nan
    save(image(folder, 3), voxels)
    save(image(folder, 4), np.full((20, 24, 18), 7, np.float32))
    found = problems(folder)
    assert len(found) == 5
    files = (image(folder, 0), image(folder, 1), label(folder, 2), image(folder, 3), image(folder, 4))
    reasons = ("ends early", "not a NIfTI file", "not a NIfTI file", "NaN", "nothing to see")
    for path, reason, problem in zip(files, reasons, found, strict=True):
        assert problem.startswith(f"{path}: ") and reason in problem


def test_each_broken_file_of_a_case_is_named(tmp_path):
    save(tmp_path / "a.nii.gz", make_pair(0)[0])
    for name in "bc":
        (tmp_path / f"{name}.nii.gz").write_bytes(b"broken")
    (tmp_path / "dataset.json").write_text(json.dumps({"unlabelled": [{"image": [f"{n}.nii.gz" for n in "abc"]}]}))
    found = problems(tmp_path)
    assert [problem.split(":")[0] for problem in found] == [str(tmp_path / f"{n}.nii.gz") for n in "bc"]


def test_channels_that_do_not_overlap(tmp_path):
    save(tmp_path / "a.nii.gz", make_pair(0)[0])
    away = np.eye(4)
    away[:3, 3] = 500
    nib.save(nib.Nifti1Image(make_pair(1)[0], away), tmp_path / "b.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"unlabelled": [{"image": ["a.nii.gz", "b.nii.gz"]}]}))
    assert "do not overlap" in only_problem(tmp_path)


def test_another_number_of_channels_than_stated_or_than_most(folder):
    save(image(folder, 4), np.stack([make_pair(4)[0], make_pair(5)[0]], -1))
    assert only_problem(folder) == "case 'case_004' has 2 channel(s), but most cases have 1"
    edit(folder, modality={"0": "MR"})
    assert "2 channels where 1 channel is expected" in only_problem(folder)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_on_another_grid(folder):
    save(label(folder, 0), make_pair(0)[1], spacing=(1, 1, 2))
    save(label(folder, 1), make_pair(1)[1][1:])
    found = problems(folder)
    assert ["affines differ" in found[0], "has shape" in found[1], len(found)] == [True, True, 2]
    report = check_dataset(folder)
    assert [case.aligned for case in report.cases] == [False, False, True, True, False]


def test_values_without_a_name(folder):
    labels = make_pair(1)[1]
    labels[0, 0, :2] = 7, 9
    save(label(folder, 1), labels)
    assert "label map of case 'case_001' holds the value(s) 7, 9, but only 0, 1, 2 have names" in only_problem(folder)


def test_empty_label_maps(folder):
    save(label(folder, 1), np.zeros((20, 24, 18), np.uint8))
    assert only_problem(folder) == "the label map of case 'case_001' is empty: no voxel of it is labelled"


def test_labels_that_no_case_shows(folder):
    edit(folder, labels={"0": "background", "1": "Left", "2": "Right", "3": "Middle"})
    assert only_problem(folder).startswith("label 3 (Middle) is in no case")


# --- across cases -----------------------------------------------------------------------------------------------------


def test_spacing_twice_and_shape_three_times_the_median_are_not_far(folder):
    voxels = np.concatenate([make_pair(4)[0]] * 3)
    save(image(folder, 4), voxels, spacing=(1, 2, 0.5))
    assert problems(folder) == []


def test_spacing_and_shape_are_compared_along_the_patient(folder):
    voxels = np.concatenate([make_pair(4)[0]] * 4, axis=2)
    # left-right, back-front and feet-head are the file's second, third and first axes
    axes = np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(voxels.transpose(2, 0, 1), axes), image(folder, 4))
    assert [problem.split(",")[0] for problem in problems(folder)] == [
        "case 'case_004' has 2.5 mm between voxels feet-head",
        "case 'case_004' has 72 voxels feet-head",
    ]


@pytest.mark.parametrize(("where", "leak"), [(3, True), (1, False), (4, False)])
def test_equal_scans_in_two_cases(folder, where, leak):
    # the same scan in another format, value type and axis order
    voxels = np.round(make_pair(0)[0])
    save(image(folder, 0), voxels)
    flipped = np.diag([-1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(voxels[::-1].astype(np.int16), flipped), image(folder, where))
    if where < 4:
        nib.save(nib.Nifti1Image(make_pair(where)[1], flipped), label(folder, where))
    splits = ("training", "training", "training", "validation", "unlabelled")
    names = f"'case_000' (training) and 'case_00{where}' ({splits[where]})"
    why = ", which leaks from training into validation" if leak else ""
    assert only_problem(folder) == f"the cases {names} hold the same scan{why}; keep one of them"


def test_a_subject_in_two_parts(folder):
    entries = [
        {"image": f"images/case_00{n}.nii.gz", "label": f"labels/case_00{n}.nii.gz", "subject": "ann"} for n in (0, 3)
    ]
    edit(folder, training=entries[:1], validation=entries[1:])
    assert "subject 'ann' is in both training (case 'case_000') and validation (case 'case_003')" in problems(folder)[0]


def test_a_table_that_does_not_fit_is_told_of_row_by_row(tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"p{number}.nii.gz", make_pair(number)[0])
    (tmp_path / "subjects.csv").write_text("case,age\np0,71\nq1,65\np2,60\n")
    assert len(problems(tmp_path)) == 2


def test_what_cannot_be_listed_is_refused(folder):
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        check_dataset(folder)


def test_real_broken_cases(data_root, tmp_path):
    source = data_root / "hippocampus"
    for name in ("001", "003", "004"):
        for part in ("images", "labels"):
            (tmp_path / part).mkdir(exist_ok=True)
            shutil.copy(source / f"{part}Tr" / f"hippocampus_{name}.nii.gz", tmp_path / part)
    # an image without a label, a label without an image, and one of another organ at another size
    shutil.copy(source / "broken" / "image_hippocampus_118.nii.gz", tmp_path / "images" / "p118.nii.gz")
    shutil.copy(source / "broken" / "label_hippocampus_010.nii.gz", tmp_path / "labels" / "p010.nii.gz")
    shutil.copy(source / "broken" / "label_hippocampus_281.nii.gz", tmp_path / "labels" / "hippocampus_001.nii.gz")
    found = problems(tmp_path)
    assert len(found) == 3
    assert "case 'p010' has an entry in labels/ but none in images/" in found[0]
    assert "case 'p118' has an entry in images/ but none in labels/" in found[1]
    assert "hippocampus_001.nii.gz has shape" in found[2] and "(512, 512, 94)" in found[2]


def test_real_good_cases(data_root):
    report = check_dataset(data_root / "fixtures" / "prostate-mr")
    assert report.problems == ()
    assert len(report.cases) == 27


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run():
    app = typer.Typer()
    app.add_typer(data_app, name="data")
    return lambda *words: CliRunner().invoke(app, ["data", *map(str, words)])


def test_the_command_counts_no_problems(run, folder, tmp_path):
    done = run("check", folder, "-o", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == f"{folder}: 5 cases, no problems"
    assert "case_003" in done.output and "Left" in done.output
    assert (tmp_path / "sheet.png").is_file()


def test_the_command_counts_problems_and_exits_with_1(run, folder):
    image(folder, 0).unlink()
    done = run("check", folder)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == f"{folder}: 5 cases, 1 problem"
    assert "the image of case 'case_000' is missing" in done.output
    label(folder, 1).unlink()
    assert run("check", folder).output.splitlines()[-1] == f"{folder}: 5 cases, 2 problems"
