"""What a dataset.json may state beyond images and labels: channels, subjects, targets, a table, other label values."""

import json

import pytest

from mimzoo.data.datasets import read_dataset
from mimzoo.errors import DataError

BRAIN = {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "Tumour", "2": "Oedema"}}


def write(folder, training, **more):
    """Write a dataset.json, and every file that its cases name, empty."""
    content = {"training": training, "validation": [], **more}
    for entry in content["training"]:
        for name in (*([entry["image"]] if isinstance(entry["image"], str) else entry["image"]), entry.get("label")):
            if isinstance(name, str):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def entries(count, **more):
    return [{"image": f"images/c{n}.nii.gz", "label": f"labels/c{n}.nii.gz", **more} for n in range(count)]


def scans(count):
    return [{"image": f"images/c{n}.nii.gz"} for n in range(count)]


def refusal(folder):
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


# --- channels ---------------------------------------------------------------------------------------------------------


def test_a_file_for_each_channel(tmp_path):
    files = ["a/flair.nii.gz", "a/t1w.nii.gz"]
    dataset = read_dataset(write(tmp_path, [{"image": files, "label": "a/seg.nii.gz", "id": "ann"}], **BRAIN))
    (case,) = dataset.training
    assert dataset.channels == ("FLAIR", "T1w")
    assert case.images == tuple(tmp_path / name for name in files)
    assert (case.id, case.image) == ("ann", case.images[0])


def test_channels_follow_their_numbers(tmp_path):
    dataset = read_dataset(write(tmp_path, entries(1), channel_names={"1": "PD", "0": "T2"}, modality={"0": "old"}))
    assert dataset.channels == ("T2", "PD")


def test_more_than_ten_channels_keep_their_order(tmp_path):
    names = {str(number): f"echo {number}" for number in range(12)}
    assert read_dataset(write(tmp_path, entries(1), modality=names)).channels == tuple(names.values())


def test_a_single_4d_file_may_hold_all_channels(tmp_path):
    assert len(read_dataset(write(tmp_path, entries(1), **BRAIN)).training[0].images) == 1


def test_the_id_comes_from_the_first_file(tmp_path):
    files = ["p1_0000.nii.gz", "p1_0001.nii.gz"]
    assert read_dataset(write(tmp_path, [{"image": files, "label": "l.nii"}])).training[0].id == "p1_0000"


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_files_than_channels(tmp_path, count):
    write(tmp_path, [{"image": [f"{n}.nii" for n in range(count)], "label": "l.nii"}], **BRAIN)
    assert f"training[0] lists {count} image(s) for 2 channel(s)" in refusal(tmp_path)


def test_a_missing_file_of_a_channel(tmp_path):
    write(tmp_path, [{"image": ["a.nii", "b.nii"], "label": "l.nii"}], **BRAIN)
    (tmp_path / "b.nii").unlink()
    assert f"the image of case 'a' is missing: {tmp_path / 'b.nii'}" in refusal(tmp_path)


@pytest.mark.parametrize("image", [[], ["a.nii", 3], ["a.nii", "../b.nii"], ["a.nii", None]])
def test_unfit_lists_of_images(tmp_path, image):
    write(tmp_path, [{"image": image, "label": "l.nii"}])
    assert "training[0]" in refusal(tmp_path)


@pytest.mark.parametrize("key", ["modality", "channel_names"])
@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (["CT"], "must map numbers to names"),
        ("CT", "must map numbers to names"),
        ({"0": 3}, "must map numbers to names"),
        ({"0": ""}, "must map numbers to names"),
        ({"1": "CT"}, "must count from 0"),
        ({"0": "CT", "2": "PET"}, "must count from 0"),
        ({"CT": "0"}, "must count from 0"),
        ({"0": "CT", "1": "CT"}, "two channels 'CT'"),
    ],
)
def test_unfit_channels(tmp_path, key, stated, reason):
    text = refusal(write(tmp_path, entries(1), **{key: stated}))
    assert key in text and reason in text


# --- values -----------------------------------------------------------------------------------------------------------


def test_label_files_may_hold_other_values(tmp_path):
    labels = {"0": "background", "1": "Ventricle", "2": "Aorta"}
    values = {"820": 2, "205": 1, "0": 0, "-5": 0}
    assert read_dataset(write(tmp_path, entries(1), labels=labels, values=values)).values == {-5: 0, 205: 1, 820: 2}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([205], "must map stored values to label values"),
        ({"x": 1}, "must map stored values to label values"),
        ({"1.5": 1}, "must map stored values to label values"),
        ({"205": 3}, "values leads to 3; allowed are the label values [0, 1, 2]"),
        ({"205": "1"}, "values leads to '1'"),
        ({"205": True}, "values leads to True"),
        ({"205": None}, "values leads to None"),
        ({"205": [1]}, "values leads to [1]"),
        ({"0": 1}, "0 is always background"),
        ({"205": 1, "0205": 2}, "names a value twice"),
    ],
)
def test_unfit_values(tmp_path, values, reason):
    assert reason in refusal(write(tmp_path, entries(1), **BRAIN, values=values))


# --- subjects and targets ---------------------------------------------------------------------------------------------


def test_subjects_are_stated_or_the_ids(tmp_path):
    first, second = entries(2)
    dataset = read_dataset(write(tmp_path, [{**first, "subject": "ann"}, second]))
    assert [case.subject for case in dataset.training] == ["ann", "c1"]


def test_targets_may_stand_in_the_entry_and_numbers_are_text(tmp_path):
    targets = {"diagnosis": " AD ", "age": 71, "volume": 3.5}
    (case,) = read_dataset(write(tmp_path, [{"image": "a.nii", "targets": targets}])).training
    assert case.targets == {"diagnosis": "AD", "age": "71", "volume": "3.5"}
    assert case.label is None


@pytest.mark.parametrize("targets", [[], "AD", {"age": None}, {"age": [71]}, {"well": True}])
def test_unfit_targets(tmp_path, targets):
    write(tmp_path, [{"image": "a.nii", "targets": targets}])
    assert "targets of training[0] must map columns to text or numbers" in refusal(tmp_path)


def test_a_subject_that_is_no_string(tmp_path):
    assert "a subject is a string" in refusal(write(tmp_path, entries(1, subject=7)))


def test_without_label_targets_or_table(tmp_path):
    assert "training case 'c0' has no label; give one, or targets" in refusal(write(tmp_path, scans(1)))
    assert "has no label" in refusal(write(tmp_path, [{"image": "c0.nii", "targets": {}}]))


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_beside_the_json_gives_targets(tmp_path):
    (tmp_path / "table.csv").write_text("case,diagnosis,age\nc1,healthy,65\nc0,AD,71\n")
    dataset = read_dataset(write(tmp_path, scans(2), table="table.csv"))
    assert [case.targets for case in dataset.training] == [
        {"diagnosis": "AD", "age": "71"},
        {"diagnosis": "healthy", "age": "65"},
    ]


def test_unlabelled_cases_need_no_row(tmp_path):
    (tmp_path / "table.csv").write_text("case,age\nc0,71\n")
    (tmp_path / "u.nii").touch()
    dataset = read_dataset(write(tmp_path, scans(1), unlabelled=["u.nii"], table="table.csv"))
    assert dataset.unlabelled[0].targets == {}


def test_a_table_by_subject_gives_all_scans_of_a_subject_its_row(tmp_path):
    (tmp_path / "table.csv").write_text("subject,sex\nann,f\nbob,m\n")
    first, second, third = scans(3)
    cases = [{**first, "subject": "ann"}, {**second, "subject": "bob"}, {**third, "subject": "ann"}]
    dataset = read_dataset(write(tmp_path, cases, table="table.csv"))
    assert [case.targets["sex"] for case in dataset.training] == ["f", "m", "f"]


def test_an_entry_comes_before_the_table(tmp_path):
    (tmp_path / "table.csv").write_text("case,subject,age\nc0,ann,71\n")
    cases = [{"image": "c0.nii", "subject": "bob", "targets": {"age": 72}}]
    (case,) = read_dataset(write(tmp_path, cases, table="table.csv")).training
    assert (case.subject, case.targets["age"]) == ("bob", "72")


def test_the_implicit_split_heeds_the_subjects_of_the_table(tmp_path):
    rows = "".join(f"c{n},s{n % 2},{n}\n" for n in range(6))
    (tmp_path / "table.csv").write_text(f"case,subject,age\n{rows}")
    write(tmp_path, scans(6), table="table.csv")
    content = json.loads((tmp_path / "dataset.json").read_text())
    del content["validation"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert [len({case.subject for case in part}) for part in (dataset.training, dataset.validation)] == [1, 1]
    assert (len(dataset.training), len(dataset.validation)) == (3, 3)


@pytest.mark.parametrize(
    ("table", "reason"),
    [("../t.csv", "leaves the folder"), (3, "table must be a path"), ("absent.csv", "the table cannot be read")],
)
def test_unfit_tables(tmp_path, table, reason):
    assert reason in refusal(write(tmp_path, scans(1), table=table))
