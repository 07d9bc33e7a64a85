"""The tables of a data set: what stands in which cell, and nothing taken for markup."""

import csv
import io
import json

import pytest
from rich.console import Console
from scans import make_dataset, make_pair, save

from mimzoo.data.check import check_dataset
from mimzoo.data.report import label_names, report_tables


@pytest.fixture
def folder(tmp_path):
    return make_dataset(tmp_path / "boxes", training=2, validation=1, unlabelled=1)


def tables(folder):
    """Title -> rows of cells as text."""
    found = {}
    for table in report_tables(check_dataset(folder)):
        columns = [[getattr(cell, "plain", cell) for cell in column.cells] for column in table.columns]
        found[table.title] = [list(row) for row in zip(*columns, strict=True)]
    return found


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_tables_without_a_row_are_left_out(folder):
    assert list(tables(folder)) == ["Splits", "Labels", "Cases"]
    (folder / "images" / "case_000.nii.gz").unlink()
    assert list(tables(folder)) == ["Splits", "Labels", "Cases", "Problems"]


def test_splits_are_summed_up(folder):
    save(folder / "images" / "case_001.nii.gz", make_pair(1, (20, 30, 18))[0], (1, 1.5, 1))
    save(folder / "labels" / "case_001.nii.gz", make_pair(1, (20, 30, 18))[1], (1, 1.5, 1))
    assert tables(folder)["Splits"] == [
        ["training", "2", "2", "2", "2", "0", "20 x 24 to 30 x 18", "1 x 1 to 1.5 x 1"],
        ["validation", "1", "1", "1", "1", "0", "20 x 24 x 18", "1 x 1 x 1"],
        ["unlabelled", "1", "1", "1", "0", "0", "20 x 24 x 18", "1 x 1 x 1"],
    ]


def test_labels_are_counted_by_split_and_measured(folder):
    labels = make_pair(2)[1]
    labels[labels == 2] = 0
    save(folder / "labels" / "case_002.nii.gz", labels)
    left, right = tables(folder)["Labels"]
    volumes = [(make_pair(number)[1] == 1).sum() / 1000 for number in range(3)]
    assert left[:5] == ["1", "Left", "2", "1", f"{sorted(volumes)[1]:.3g}"]
    assert left[5] == f"{min(volumes):.4g} to {max(volumes):.4g}" or min(volumes) == max(volumes)
    assert right[:4] == ["2", "Right", "2", "0"]


def test_values_without_a_name_are_numbered(folder):
    edit(folder, labels={"2": "Right", "9": "Absent"})
    assert label_names(check_dataset(folder)) == {1: "label 1", 2: "Right", 9: "Absent"}


def test_cases_have_a_line_for_each_channel(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.nii.gz", make_pair(ord(name))[0])
    entry = {"image": ["a.nii.gz", "b.nii.gz"], "id": "ann-1", "subject": "ann", "targets": {"age": 71}}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    ((name, split, subject, shape, spacing, axes, levels, ml, targets),) = tables(tmp_path)["Cases"]
    assert (name, split, subject, shape, spacing) == ("ann-1", "training", "ann", "20 x 24 x 18", "1 x 1 x 1")
    assert (axes, len(levels.splitlines()), ml, targets) == ("RAS", 2, "", "age: 71")


def test_what_was_not_read_is_said(folder):
    (folder / "images" / "case_000.nii.gz").write_bytes(b"broken")
    first = tables(folder)["Cases"][0]
    assert first[3:7] == ["not read", "", "", ""]


def test_targets_are_counted_or_summed_up(tmp_path):
    rows = [(f"p{n}", "f" if n % 2 else "m", 60 + n, f"code {n}", "") for n in range(20)]
    for name, *_ in rows:
        save(tmp_path / "images" / f"{name}.nii.gz", make_pair(int(name[1:]), (6, 6, 6))[0])
    with (tmp_path / "subjects.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "sex", "age", "code", "note"), *rows])
    report = check_dataset(tmp_path)
    training = [case.case.targets for case in report.cases if case.split == "training"]
    found = {column: cell for column, cell, _ in tables(tmp_path)["Targets"]}
    women = sum(row["sex"] == "f" for row in training)
    ages = sorted(int(row["age"]) for row in training)
    assert found["sex"] == f"f: {women}, m: {16 - women}"
    assert found["age"] == f"{ages[0]} to {ages[-1]}, median {(ages[7] + ages[8]) / 2:.3g}"
    assert found["code"] == "16 different values"
    assert found["note"] == "(empty): 16"


def test_names_are_not_taken_for_markup(folder):
    edit(folder, labels={"0": "background", "1": "[red]Left[/]", "2": "[/]"})
    out = io.StringIO()
    for table in report_tables(check_dataset(folder)):
        Console(width=200, file=out).print(table)
    assert "[red]Left[/]" in out.getvalue()
