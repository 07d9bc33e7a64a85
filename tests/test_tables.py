"""Tables of targets: which CSV files are read, how rows find their cases, and which columns can be predicted."""

from pathlib import Path

import pytest

from mimzoo.data.cases import Case, Dataset
from mimzoo.data.tables import check_targets, fill, mismatches, read_table, target_of
from mimzoo.errors import DataError


@pytest.fixture
def table(tmp_path):
    """Write a table and read it."""

    def write(text):
        path = tmp_path / "subjects.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path)

    return write


def make_case(name, subject="", **targets):
    return Case(name, (Path(f"{name}.nii"),), None, subject, targets)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rows_by_id(table):
    assert table("id,age,diagnosis\na,71,AD\nb,65,\n").rows == {
        "a": {"age": "71", "diagnosis": "AD"},
        "b": {"age": "65", "diagnosis": ""},
    }


def test_what_spreadsheets_write_is_read(table):
    text = '\ufeffcase,note\r\n a , x \r\n\r\n,\r\nb,"one, two\nthree"\r\n'.encode()
    assert table(text).rows == {"a": {"note": "x"}, "b": {"note": "one, two\nthree"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("case,sex\na,m\n".encode("utf-16"), "is not text in UTF-8"),
        ("case,sex\nR\xfcdiger,m\n".encode("latin-1"), "is not text in UTF-8"),
        ("a,m\nb,f\n", "the first column is called 'a', but must be called case, subject or id"),
        ("case;sex\na;m\n", "the first column is called 'case;sex'"),
        ("case\na\n", "has only the column 'case'"),
        ("case,sex,sex\n", "column 3 is called 'sex' as one before it"),
        ("case,sex,\n", "column 3 has no name"),
        ("case,sex\na,m\nb\n", "line 3 has 1 cell(s), its header 2"),
        ("case,sex\na,m,1\n", "line 2 has 3 cell(s), its header 2"),
        ("case,sex\na,m\nb,f\na,m\n", "line 4 is a second row of 'a'"),
        ("case,sex\n,m\n", "line 2 is a row without a case"),
        ('case,sex\n"a,m\n', "is not CSV"),
    ],
)
def test_unfit_files(table, text, reason):
    with pytest.raises(DataError) as caught:
        table(text)
    assert reason in str(caught.value)
    assert "subjects.csv: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_table(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "subjects.csv")


# --- rows and cases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"), [("case", ["by case", ""]), ("subject", ["by subject"] * 2), ("id", ["by case", "by subject"])]
)
def test_what_the_first_column_holds(table, key, expected):
    rows = table(f"{key},how\nscan1,by case\nann,by subject\n")
    cases = fill(rows, [make_case("scan1", "ann"), make_case("scan2", "ann")])
    assert [case.targets.get("how", "") for case in cases] == expected


def test_a_subject_column_says_whose_scan_it_is(table):
    rows = table("case,subject,age\na,ann,71\nb,,65\n")
    first, second = fill(rows, [make_case("a"), make_case("b")])
    assert (first.subject, second.subject) == ("ann", "b")


def test_each_mismatch_is_named_with_the_nearest(table):
    rows = table("case,age\nsub-01,71\nsub-2,65\nextra,4\n")
    labelled, others = [make_case("sub-01"), make_case("sub-02")], [make_case("extra")]
    found = [text.split(": ", 1)[1] for text in mismatches(rows, labelled, others)]
    assert found == [
        "the case 'sub-2' is not in the data set; the nearest is 'sub-02'",
        "there is no row of case 'sub-02'; the nearest is 'sub-2'",
    ]


def test_a_case_with_targets_of_its_own_needs_no_row(table):
    assert list(mismatches(table("case,age\na,1\n"), [make_case("a"), make_case("b", age="3")], [])) == []


# --- checks -----------------------------------------------------------------------------------------------------------


def dataset_of(column, training, validation):
    parts = {"training": training, "validation": validation}
    cases = {s: tuple(make_case(f"{s}{n}", **{column: v}) for n, v in enumerate(vs)) for s, vs in parts.items()}
    return Dataset("x", Path("folder"), **cases)


def test_fit_targets_pass():
    check_targets(dataset_of("diagnosis", ["AD", "MCI", "AD"], ["MCI", "AD"]), "diagnosis", ["AD", "MCI", "healthy"])
    check_targets(dataset_of("age", ["71", "6.5e1", "-3"], ["1", "2"]), "age", None)
    check_targets(dataset_of("diagnosis", ["AD", "MCI"], []), "diagnosis", ["AD", "MCI"])


@pytest.mark.parametrize(
    ("training", "validation", "classes", "reason"),
    [
        (["AD", "ad"], ["AD", "MCI"], ["AD", "MCI"], "case 'training1' has the x 'ad', which is no class"),
        (["AD", "MCI"], ["MCI", ""], ["AD", "MCI"], "case 'validation1' has the x '', which is no class"),
        (["AD", "AD"], ["AD", "MCI"], ["AD", "MCI"], r"every training case has the x 'AD' \(2 case\(s\)\)"),
        (["AD", "MCI"], ["MCI"], ["AD", "MCI"], r"every validation case has the x 'MCI' \(1 case\(s\)\)"),
        (["1", "two"], ["1", "2"], None, "case 'training1' has the x 'two', which is no finite number"),
        (["1", "2"], ["nan", "2"], None, "case 'validation0' has the x 'nan', which is no finite number"),
        (["1", "inf"], ["1", "2"], None, "no finite number"),
        (["1", "71,5"], ["1", "2"], None, "no finite number"),
        (["1", "1.0"], ["1", "2"], None, r"every training case has the x 1 \(2 case\(s\)\); at least two values"),
    ],
)
def test_unfit_targets(training, validation, classes, reason):
    with pytest.raises(DataError, match=reason):
        check_targets(dataset_of("x", training, validation), "x", classes)


def test_an_unknown_column_has_its_nearest():
    with pytest.raises(DataError, match="no column 'diagnose'; did you mean 'diagnosis'"):
        check_targets(dataset_of("diagnosis", ["AD", "MCI"], []), "diagnose", ["AD", "MCI"])


def test_a_case_without_the_column_is_named():
    dataset = dataset_of("age", ["1", "2"], ["3", "4"])
    lone = make_case("lone", sex="m")
    with pytest.raises(DataError, match="case 'lone' has no 'age' among its targets"):
        target_of(dataset, lone, "age")
