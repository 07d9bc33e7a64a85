"""Splits: few labels, shares, folds and fixed lists, none of which parts the scans of a subject."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimzoo.data.cases import Case, Dataset
from mimzoo.data.splits import few_labels, fixed_split, label_fraction, split_off, take_fold
from mimzoo.errors import DataError

FOLDER = Path("folder")


def make_case(name, subject="", **targets):
    return Case(name, (FOLDER / f"{name}.nii",), FOLDER / "label.nii", subject, targets)


def singles(count):
    """Training cases that are each of another subject."""
    return Dataset("x", FOLDER, tuple(make_case(f"c{n}") for n in range(count)))


def ids(cases):
    return [case.id for case in cases]


def subjects(cases):
    return {case.subject for case in cases}


@st.composite
def datasets(draw, least=1):
    """Data sets whose subjects have one to four scans, in any order and part, with a diagnosis for each subject."""
    count = draw(st.integers(least, 12))
    cases = []
    for number in range(count):
        diagnosis = draw(st.sampled_from(["AD", "MCI", "healthy"]))
        scans = draw(st.integers(1, 4))
        cases += [make_case(f"c{number}-{n}", f"s{number}", diagnosis=diagnosis) for n in range(scans)]
    cases = draw(st.permutations(cases))
    where = draw(st.integers(0, len(cases)))
    return Dataset("x", FOLDER, tuple(cases[:where]), tuple(cases[where:]))


# --- few labels -------------------------------------------------------------------------------------------------------


@given(dataset=datasets().filter(lambda d: d.training), seed=st.integers(0, 2**31), data=st.data())
def test_few_labels_nest_and_begin_at_most_one_subject_partly(dataset, seed, data):
    less = data.draw(st.integers(1, len(dataset.training)))
    more = data.draw(st.integers(less, len(dataset.training)))
    few, many = (few_labels(dataset, n, seed).training for n in (less, more))
    assert (len(few), len(many)) == (less, more)
    assert set(ids(few)) <= set(ids(many)) <= set(ids(dataset.training))
    whole = Counter(case.subject for case in dataset.training)
    assert sum(whole[subject] > count for subject, count in Counter(case.subject for case in few).items()) <= 1


def test_few_labels_do_not_depend_on_the_order():
    dataset = singles(30)
    reverse = Dataset("x", FOLDER, dataset.training[::-1])
    assert few_labels(dataset, 4, 1) == few_labels(reverse, 4, 1)
    assert ids(few_labels(dataset, 4, 1).training) != ids(few_labels(dataset, 4, 2).training)


def test_few_labels_are_the_same_on_every_machine():
    assert ids(few_labels(singles(9), 3).training) == ["c4", "c3", "c6"]


def test_few_labels_leave_the_rest_of_the_data_set():
    dataset = Dataset("x", FOLDER, (make_case("a"), make_case("b")), (make_case("c"),), (make_case("d"),), {1: "L"})
    few = few_labels(dataset, 1)
    assert (few.validation, few.unlabelled, few.labels) == (dataset.validation, dataset.unlabelled, dataset.labels)


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_labels_than_there_are(count):
    with pytest.raises(DataError, match=f"cannot take {count} labelled training cases; give 1 to 3"):
        few_labels(singles(3), count)


@pytest.mark.parametrize(("fraction", "count"), [(1, 10), (0.5, 5), (0.26, 3), (0.001, 1)])
def test_a_fraction_of_the_labels(fraction, count):
    dataset = singles(10)
    assert label_fraction(dataset, fraction, 3) == few_labels(dataset, count, 3)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, 50, float("nan")])
def test_unfit_fractions(fraction):
    with pytest.raises(DataError, match="give one above 0"):
        label_fraction(singles(10), fraction)


# --- folds ------------------------------------------------------------------------------------------------------------


@given(
    dataset=datasets(least=4), folds=st.integers(2, 4), seed=st.integers(0, 99), by=st.sampled_from([None, "diagnosis"])
)
def test_folds_are_disjoint_cover_all_and_never_part_a_subject(dataset, folds, seed, by):
    pooled = dataset.training + dataset.validation
    parts = [take_fold(dataset, folds, fold, seed, by) for fold in range(folds)]
    assert sorted(ids(case for part in parts for case in part.validation)) == sorted(ids(pooled))
    for part in parts:
        assert sorted(ids(part.training + part.validation)) == sorted(ids(pooled))
        assert not subjects(part.training) & subjects(part.validation)
    sizes = [len(subjects(part.validation)) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(dataset=datasets(least=4), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_folds_hold_each_class_within_one_subject(dataset, folds, seed):
    parts = [take_fold(dataset, folds, fold, seed, "diagnosis").validation for fold in range(folds)]
    counts = [Counter(dict.fromkeys((c.subject, c.targets["diagnosis"]) for c in part)) for part in parts]
    for diagnosis in ("AD", "MCI", "healthy"):
        numbers = [sum(found == diagnosis for _, found in count) for count in counts]
        assert max(numbers) - min(numbers) <= 1


@given(dataset=datasets(least=3), seed=st.integers(0, 99))
def test_folds_do_not_depend_on_the_order_or_the_former_split(dataset, seed):
    pooled = dataset.training + dataset.validation
    again = Dataset("x", FOLDER, pooled[::-1])
    assert take_fold(dataset, 3, 1, seed) == take_fold(again, 3, 1, seed)


def test_folds_are_the_same_on_every_machine():
    assert ids(take_fold(singles(9), 3, 0).validation) == ["c3", "c6", "c7"]


def test_another_seed_deals_otherwise():
    dealt = {tuple(ids(take_fold(singles(12), 3, 0, seed).validation)) for seed in range(5)}
    assert len(dealt) > 1
    ages = Dataset("x", FOLDER, tuple(make_case(f"c{n}", age=str(n)) for n in range(12)))
    assert len({tuple(ids(take_fold(ages, 3, 0, seed, "age").validation)) for seed in range(5)}) > 1


def test_a_subject_counts_under_the_value_of_its_first_case():
    # every subject turned from MCI to AD, so by their first cases all are alike
    visits = [("1", "MCI"), ("2", "AD")]
    cases = tuple(make_case(f"s{n}-{visit}", f"s{n}", dx=dx) for n in range(6) for visit, dx in visits)
    parts = [take_fold(Dataset("x", FOLDER, cases), 3, fold, 0, "dx").validation for fold in range(3)]
    assert [len(subjects(part)) for part in parts] == [2, 2, 2]


@pytest.mark.parametrize(
    ("folds", "fold", "reason"),
    [
        (1, 0, r"into 1 fold\(s\); give at least 2"),
        (3, 3, "no fold 3 among 3; folds are numbered 0 to 2"),
        (3, -1, "no fold -1 among 3"),
        (5, 0, r"4 labelled subject\(s\) cannot fill 5 folds"),
    ],
)
def test_unfit_folds(folds, fold, reason):
    cases = tuple(make_case(f"c{n}-{visit}", f"s{n}") for n in range(4) for visit in range(2))
    with pytest.raises(DataError, match=reason):
        take_fold(Dataset("x", FOLDER, cases), folds, fold)


def test_folds_by_an_unknown_column():
    dataset = Dataset("x", FOLDER, tuple(make_case(f"c{n}", age=str(n)) for n in range(4)))
    with pytest.raises(DataError, match="no column 'agge'; did you mean 'age'"):
        take_fold(dataset, 2, 0, 0, "agge")


# --- fixed and implicit splits ----------------------------------------------------------------------------------------


def test_a_fixed_split_holds_the_listed_cases_alone():
    dataset = Dataset(
        "x", FOLDER, (make_case("a"), make_case("b")), (make_case("c"), make_case("d")), (make_case("u"),)
    )
    fixed = fixed_split(dataset, ["d", "a"], ["b"])
    assert (ids(fixed.training), ids(fixed.validation), ids(fixed.unlabelled)) == (["d", "a"], ["b"], ["u"])


@pytest.mark.parametrize(
    ("training", "validation", "reason"),
    [
        (["case-1", "case-22"], ["case-3"], "the case 'case-22' is not in the data set; the nearest is 'case-2'"),
        (["case-1"], ["u"], "the case 'u' is unlabelled and cannot be in a split"),
        (["case-1"], ["case-1"], "case 'case-1' is listed twice"),
        (["case-2", "case-2"], ["case-1"], "case 'case-2' is listed twice"),
        (
            ["case-1"],
            ["case-3"],
            r"subject 'ann' is in both training \(case 'case-1'\) and validation \(case 'case-3'\)",
        ),
    ],
)
def test_unfit_fixed_splits(training, validation, reason):
    cases = make_case("case-1", "ann"), make_case("case-2"), make_case("case-3", "ann")
    with pytest.raises(DataError, match=reason):
        fixed_split(Dataset("x", FOLDER, cases, (), (make_case("u"),)), training, validation)


@given(dataset=datasets(), seed=st.integers(0, 99))
def test_the_implicit_split_takes_one_subject_in_five(dataset, seed):
    pooled = dataset.training + dataset.validation
    training, validation = split_off(pooled, seed)
    assert sorted(ids(training + validation)) == sorted(ids(pooled))
    assert not subjects(training) & subjects(validation)
    count = len(subjects(pooled))
    assert len(subjects(validation)) == (0 if count == 1 else max(1, round(count / 5)))
    again = split_off(pooled[::-1], seed)
    assert (set(ids(again[0])), set(ids(again[1]))) == (set(ids(training)), set(ids(validation)))
