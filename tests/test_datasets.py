"""What read_dataset finds in a folder, what it refuses, and how cases without a stated split are split."""

import json
import os

import pytest
from scans import make_dataset, make_pair, save

from mimzoo.data.datasets import list_dataset, read_dataset
from mimzoo.errors import DataError


def ids(cases):
    return [case.id for case in cases]


def edit(folder, **changes):
    """Change keys of a dataset.json; None removes a key."""
    path = folder / "dataset.json"
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))


@pytest.fixture
def folder(tmp_path):
    return make_dataset(tmp_path / "boxes", training=3, validation=1, unlabelled=2)


def refusal(folder):
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def test_decathlon_folder(folder):
    dataset = read_dataset(folder)
    assert dataset.name == "Boxes"
    assert ids(dataset.training) == ["case_000", "case_001", "case_002"]
    assert ids(dataset.validation) == ["case_003"]
    assert ids(dataset.unlabelled) == ["case_004", "case_005"]
    assert dataset.labels == {1: "Left", 2: "Right"}
    assert dataset.training[0].image.samefile(folder / "images" / "case_000.nii.gz")
    assert dataset.training[0].label.samefile(folder / "labels" / "case_000.nii.gz")
    assert dataset.unlabelled[0].label is None
    assert [case.images for case in dataset.training] == [(case.image,) for case in dataset.training]
    assert [case.subject for case in dataset.training] == ids(dataset.training)
    assert (dataset.channels, dataset.values, dataset.training[0].targets) == ((), {}, {})


def test_relative_and_home_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert read_dataset("boxes").labels == read_dataset("~/boxes").labels == {1: "Left", 2: "Right"}


def test_real_datasets(data_root):
    hippocampus, headneck = read_dataset(data_root / "hippocampus"), read_dataset(data_root / "headneck-ct")
    assert (len(hippocampus.training), len(hippocampus.validation), len(hippocampus.unlabelled)) == (200, 20, 0)
    assert hippocampus.labels == {1: "Anterior", 2: "Posterior"}
    assert (hippocampus.channels, headneck.channels) == (("MRI",), ("CT",))
    assert (len(headneck.training), len(headneck.validation), len(headneck.unlabelled)) == (44, 6, 45)
    assert list(headneck.labels) == [1, 2, 3, 4, 5]


def test_real_plain_folders(data_root):
    abdomen = read_dataset(data_root / "fixtures" / "abdomen-example")
    assert len(abdomen.training + abdomen.validation) == 2
    assert ids(abdomen.unlabelled) == ["ct_torso_3mm"]
    prostate = read_dataset(data_root / "fixtures" / "prostate-mr")
    assert (len(prostate.training), len(prostate.validation)) == (22, 5)


def test_test_cases_are_ignored(folder):
    edit(folder, test=["images/nowhere.nii.gz"])
    assert len(read_dataset(folder).training) == 3


def test_without_a_stated_validation_one_in_five_is_taken(tmp_path):
    folder = make_dataset(tmp_path / "boxes", training=10, validation=0, unlabelled=0, shape=(6, 6, 6))
    edit(folder, validation=None)
    dataset = read_dataset(folder)
    assert (len(dataset.training), len(dataset.validation)) == (8, 2)
    assert sorted(ids(dataset.training + dataset.validation)) == [f"case_{n:03d}" for n in range(10)]
    assert read_dataset(folder) == dataset
    assert {frozenset(ids(read_dataset(folder, seed).validation)) for seed in range(9)} != {
        frozenset(ids(dataset.validation))
    }


def test_a_stated_empty_validation_stays_empty(folder):
    edit(folder, validation=[])
    dataset = read_dataset(folder)
    assert len(dataset.training) == 3
    with pytest.raises(DataError, match=r"no validation cases \(it has 3 training, 0 validation, 2 unlabelled\)"):
        dataset.cases("validation")


def test_cases_of_an_unknown_split(folder):
    with pytest.raises(DataError, match="did you mean 'training'"):
        read_dataset(folder).cases("trainign")


def test_one_labelled_case_is_for_training(tmp_path):
    folder = make_dataset(tmp_path / "boxes", training=1, validation=0, unlabelled=0)
    edit(folder, validation=None)
    dataset = read_dataset(folder)
    assert (len(dataset.training), len(dataset.validation)) == (1, 0)


def test_an_id_may_be_stated(folder):
    unlabelled = [{"image": "images/case_004.nii.gz", "id": "patient 7"}]
    edit(folder, unlabelled=unlabelled)
    assert ids(read_dataset(folder).unlabelled) == ["patient 7"]


def test_pairs_in_a_plain_folder(tmp_path):
    for number in range(5):
        image, labels = make_pair(number)
        save(tmp_path / "images" / f"p{number}.nii.gz", image)
        save(tmp_path / "labels" / f"p{number}.nii", labels)
    save(tmp_path / "unlabelled" / "deep" / "q.nii.gz", image)
    (tmp_path / "images" / "._p0.nii.gz").write_bytes(b"mac")
    dataset = read_dataset(tmp_path)
    assert sorted(ids(dataset.training + dataset.validation)) == ["p0", "p1", "p2", "p3", "p4"]
    assert len(dataset.validation) == 1
    assert ids(dataset.unlabelled) == ["deep-q"]
    assert dataset.labels == {}
    assert all(case.image.stem.split(".")[0] == case.label.stem.split(".")[0] for case in dataset.training)


def test_any_tree_of_scans_is_unlabelled(tmp_path):
    for name in ("a/ct.nii.gz", "b/ct.nii", "top.nii.gz", ".hidden/no.nii.gz"):
        save(tmp_path / name, make_pair(0)[0])
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert ids(read_dataset(tmp_path).unlabelled) == ["a-ct", "b-ct", "top"]


def test_linked_folders_are_followed(tmp_path):
    save(tmp_path / "elsewhere" / "x.nii.gz", make_pair(0)[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p1").symlink_to(tmp_path / "elsewhere")
    assert ids(read_dataset(tmp_path / "data").unlabelled) == ["p1-x"]


@pytest.fixture
def tabled(tmp_path):
    """Ten scans of five subjects, labelled by a table."""
    for number in range(10):
        path = tmp_path / "images" / f"scan{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    rows = [f"scan{n},s{n // 2},{'AD' if n % 4 < 2 else 'healthy'}" for n in range(10)]
    (tmp_path / "subjects.csv").write_text("\n".join(["case,subject,diagnosis", *rows]))
    return tmp_path


def test_images_with_a_table_are_labelled_by_it(tabled):
    dataset = read_dataset(tabled)
    cases = {case.id: case for case in dataset.training + dataset.validation}
    assert len(cases) == 10
    assert {case.label for case in cases.values()} == {None}
    assert (cases["scan5"].targets["diagnosis"], cases["scan5"].subject) == ("AD", "s2")
    assert cases["scan6"].targets["diagnosis"] == "healthy"


def test_the_implicit_split_keeps_the_scans_of_a_subject_together(tabled):
    for seed in range(20):
        dataset = read_dataset(tabled, seed)
        training, validation = ({case.subject for case in part} for part in (dataset.training, dataset.validation))
        assert (len(training), len(validation), training & validation) == (4, 1, set())
        assert len(dataset.validation) == 2


def test_images_with_labels_and_a_table_have_both(tabled):
    for number in range(10):
        save(tabled / "labels" / f"scan{number}.nii.gz", make_pair(number)[1])
    save(tabled / "unlabelled" / "q.nii.gz", make_pair(0)[0])
    dataset = read_dataset(tabled)
    assert all(case.label and case.targets["diagnosis"] for case in dataset.training + dataset.validation)
    assert ids(dataset.unlabelled) == ["q"]


def test_all_that_is_wrong_is_listed(folder):
    (folder / "images" / "case_001.nii.gz").unlink()
    (folder / "labels" / "case_003.nii.gz").unlink()
    dataset, problems = list_dataset(folder)
    assert ids(dataset.training) == ["case_000", "case_001", "case_002"]
    assert ["'case_001' is missing" in problems[0], "'case_003' is missing" in problems[1]] == [True, True]
    assert len(problems) == 2
    assert refusal(folder) == problems[0]


def test_a_good_folder_has_no_problems(folder):
    assert list_dataset(folder) == (read_dataset(folder), [])


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")


def test_a_file_instead_of_a_folder(folder):
    assert "a file, not a folder" in refusal(folder / "dataset.json")


def test_an_empty_folder(tmp_path):
    assert "holds no scans" in refusal(tmp_path)


def test_a_json_without_cases(folder):
    edit(folder, training=[], validation=[], unlabelled=[])
    assert "holds no scans" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", '{"training": [}', "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}"])
def test_broken_json(folder, text):
    (folder / "dataset.json").write_text(text)
    assert "not valid JSON" in refusal(folder)


def test_json_in_another_encoding(folder):
    (folder / "dataset.json").write_bytes('{"name": "Rückenmark"}'.encode("utf-16"))
    assert "not valid JSON" in refusal(folder)


def test_json_that_is_a_folder(folder):
    (folder / "dataset.json").unlink()
    (folder / "dataset.json").mkdir()
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("table", [[], "x", 3, None])
def test_json_that_is_no_object(folder, table):
    (folder / "dataset.json").write_text(json.dumps(table))
    assert "must be a JSON object" in refusal(folder)


@pytest.mark.parametrize("split", ["training", "validation", "unlabelled"])
def test_cases_that_are_no_list(folder, split):
    edit(folder, **{split: {"image": "x"}})
    assert f"{split} must be a list of cases, got an object" in refusal(folder)


@pytest.mark.parametrize("entry", [3, None, [], {}, {"image": 3}, {"label": "x"}])
def test_entries_of_another_kind(folder, entry):
    edit(folder, training=[entry])
    assert "training[0] must be a path" in refusal(folder)


@pytest.mark.parametrize("where", ["../secret.nii.gz", "/etc/passwd", "images/../../x.nii.gz", ".."])
@pytest.mark.parametrize("role", ["image", "label"])
def test_paths_that_leave_the_folder(folder, where, role):
    edit(folder, training=[{"image": "images/case_000.nii.gz", "label": "labels/case_000.nii.gz", role: where}])
    text = refusal(folder)
    assert "leaves the folder" in text and repr(where) in text


@pytest.mark.parametrize("role", ["image", "label"])
def test_missing_files_are_named_with_their_case(folder, role):
    (folder / f"{role}s" / "case_001.nii.gz").unlink()
    text = refusal(folder)
    assert f"the {role} of case 'case_001' is missing" in text and f"{role}s/case_001.nii.gz" in text


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("entry", ["images/case_000.nii.gz", {"image": "images/case_000.nii.gz", "label": None}])
def test_labelled_cases_without_label(folder, split, entry):
    edit(folder, **{"training": [], "validation": [], split: [entry]})
    assert f"{split} case 'case_000' has no label" in refusal(folder)


@pytest.mark.parametrize("split", ["training", "validation", "unlabelled"])
def test_a_scan_listed_twice(folder, split):
    entry = {"image": "images/case_000.nii.gz", "label": "labels/case_000.nii.gz"}
    edit(folder, **{"training": [entry], split: [entry, entry]})
    assert "'case_000' is there twice" in refusal(folder)


@pytest.mark.parametrize("name", ["a/b", ".a", "\n", "..", 7, ["x"]])
def test_unfit_ids(folder, name):
    edit(folder, unlabelled=[{"image": "images/case_004.nii.gz", "id": name}])
    assert repr(name) in refusal(folder)


@pytest.mark.parametrize(
    "table", [[], "x", {"1": 3}, {"Left": "1"}, {"-1": "x"}, {"1.0": "x"}, {"255": "x"}, {"1": "a", "01": "b"}]
)
def test_unfit_label_tables(folder, table):
    edit(folder, labels=table or ["x"])
    assert "labels" in refusal(folder)


def test_an_image_without_label_and_the_reverse(tmp_path):
    image, labels = make_pair(0)
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.nii.gz", image)
        save(tmp_path / "labels" / f"{name}.nii.gz", labels)
    (tmp_path / "labels" / "b.nii.gz").unlink()
    assert "case 'b' has an entry in images/ but none in labels/" in refusal(tmp_path)
    (tmp_path / "labels" / "c.nii.gz").write_bytes(b"")
    (tmp_path / "images" / "b.nii.gz").unlink()
    assert "case 'c' has an entry in labels/ but none in images/" in refusal(tmp_path)


def test_two_files_of_one_name(tmp_path):
    save(tmp_path / "a.nii", make_pair(0)[0])
    save(tmp_path / "a.nii.gz", make_pair(0)[0])
    assert "both give the case 'a'" in refusal(tmp_path)


def test_labels_are_not_taken_for_scans(tmp_path):
    save(tmp_path / "imagesTr" / "a.nii.gz", make_pair(0)[0])
    save(tmp_path / "labelsTr" / "a.nii.gz", make_pair(0)[1])
    assert "labelsTr/ would be taken for scans" in refusal(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_not_passed_over(tmp_path):
    save(tmp_path / "a.nii.gz", make_pair(0)[0])
    (tmp_path / "closed").mkdir(mode=0)
    assert "cannot be read" in refusal(tmp_path)


def test_a_table_that_does_not_fit_the_images(tabled):
    text = (tabled / "subjects.csv").read_text()
    (tabled / "subjects.csv").write_text(text.replace("scan3,", "scna3,"))
    assert "the case 'scna3' is not in the data set; the nearest is 'scan3'" in refusal(tabled)
    problems = list_dataset(tabled)[1]
    assert len(problems) == 2 and "there is no row of case 'scan3'; the nearest is 'scna3'" in problems[1]


def test_a_subject_in_training_and_validation(folder):
    pairs = [{role: f"{role}s/case_00{n}.nii.gz" for role in ("image", "label")} for n in range(4)]
    subjects = ("ann", "bob", "cid", "bob")
    entries = [{**pair, "subject": subject} for pair, subject in zip(pairs, subjects, strict=True)]
    edit(folder, training=entries[:3], validation=entries[3:])
    text = refusal(folder)
    assert "subject 'bob' is in both training (case 'case_001') and validation (case 'case_003')" in text


def test_a_subject_may_be_labelled_and_unlabelled(folder):
    pair = {"image": "images/case_000.nii.gz", "label": "labels/case_000.nii.gz", "subject": "ann"}
    edit(folder, training=[pair], unlabelled=[{"image": "images/case_004.nii.gz", "subject": "ann"}])
    dataset = read_dataset(folder)
    assert dataset.training[0].subject == dataset.unlabelled[0].subject == "ann"
