"""What a card can ask a model for, and what no model could answer."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mimzoo.tasks import Target, make_task, slug

LABELS = {1: "Necrosis", 2: "Edema", 3: "Enhancing"}
REGIONS = {"WT": ("Edema", "Necrosis", "Enhancing"), "TC": ("Necrosis", "Enhancing"), "ET": ("Enhancing",)}
DIAGNOSIS = Target(column="diagnosis", classes=("CN", "MCI", "AD"))
AGE = Target(column="age", unit="years")


# --- the four kinds


def test_labels_have_an_output_for_the_background_and_for_each_value_in_order():
    task = make_task({2: "Edema", 1: "Necrosis", 3: "Enhancing"}, None, None)
    assert task.kind == "labels" and not task.of_scan
    assert task.outputs == ("background", "Necrosis", "Edema", "Enhancing")
    assert task.names == ("Necrosis", "Edema", "Enhancing")
    assert task.labels == LABELS and task.regions == {} and task.target is None


def test_regions_have_an_output_each_and_know_their_label_values():
    task = make_task(LABELS, REGIONS, None)
    assert task.kind == "regions" and not task.of_scan
    assert task.outputs == task.names == ("WT", "TC", "ET")
    assert task.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert task.labels == LABELS


def test_the_order_in_which_regions_are_written_does_not_matter():
    labels, regions = {**LABELS, 4: "Cyst"}, {**REGIONS, "Cyst": ("Cyst",)}
    for order in permutations(regions):
        task = make_task(labels, {name: regions[name] for name in order}, None)
        assert task.outputs == tuple(task.regions) == ("WT", "TC", "Cyst", "ET")


def test_a_label_named_twice_in_a_region_counts_once():
    assert make_task(LABELS, {"ET": ("Enhancing", "Enhancing")}, None).regions == {"ET": (3,)}


def test_classes_have_an_output_each_in_the_order_given():
    task = make_task(None, None, DIAGNOSIS)
    assert task.kind == "classes" and task.of_scan
    assert task.outputs == task.names == ("CN", "MCI", "AD")
    assert task.target == DIAGNOSIS and task.labels == {} and task.regions == {}


def test_a_value_has_one_output_with_the_name_of_its_column():
    task = make_task(None, None, AGE)
    assert task.kind == "value" and task.of_scan
    assert task.outputs == task.names == ("age",)


@given(st.lists(st.text(min_size=1).filter(lambda name: name != "background"), min_size=1, max_size=8, unique=True))
def test_the_value_in_a_mask_is_the_place_of_its_output(names):
    labels = dict(enumerate(names, 1))
    task = make_task(dict(reversed(labels.items())), None, None)
    assert [task.outputs.index(name) for name in names] == list(labels)


# --- what is no task


REFUSED = {
    "nothing": ((None, None, None), "a task needs `labels`, or a `target`"),
    "no labels": (({}, None, None), "a task needs `labels`"),
    "regions alone": ((None, REGIONS, None), "a task needs `labels`"),
    "two tasks": ((LABELS, None, DIAGNOSIS), "no `labels` and no `regions` beside it"),
    "regions of a value": ((None, REGIONS, AGE), "no `labels` and no `regions` beside it"),
    "a gap": (({1: "a", 3: "b"}, None, None), r"count up from 1, got the values \[1, 3\]"),
    "from 2": (({2: "a"}, None, None), r"count up from 1, got the values \[2\]"),
    "one name twice": (({1: "a", 2: "a"}, None, None), r"different names.*\['a', 'a'\]"),
    "a second background": (({1: "background"}, None, None), "none of them 'background'"),
    "no region": ((LABELS, {}, None), "regions is empty; leave it out"),
    "unknown label": (
        (LABELS, {"ET": ("Enhancng",)}, None),
        "'ET' names .* 'Enhancng'; did you mean 'Enhancing'",
    ),
    "one file": ((LABELS, {"a b": ("Edema",), "a-b": ("Necrosis",)}, None), "differ in letters or digits"),
    "one file on some disks": ((LABELS, {"ET": ("Edema",), "et": ("Necrosis",)}, None), r"\['ET', 'et'\]"),
    "no file": ((LABELS, {"+": ("Edema",)}, None), "letters or digits, which name their files"),
}


@pytest.mark.parametrize(("parts", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_task_is_refused_in_one_sentence(parts, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        make_task(*parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [(), ("AD",), ("AD", "AD"), ("AD", "CN", "AD")])
def test_classes_are_at_least_two_and_different(classes):
    with pytest.raises(ValidationError, match="at least two different names"):
        Target(column="diagnosis", classes=classes)


def test_a_class_has_no_unit():
    with pytest.raises(ValidationError, match="a class has no unit"):
        Target(column="diagnosis", classes=("CN", "AD"), unit="years")


def test_unknown_keys_of_a_target_are_refused():
    with pytest.raises(ValidationError, match="clases"):
        Target.model_validate({"column": "diagnosis", "clases": ["CN", "AD"]})


@given(st.text(max_size=20))
def test_a_name_in_a_file_name_has_letters_and_digits_with_single_hyphens_between(name):
    assert slug(slug(name)) == slug(name)
    assert all(part and part.isalnum() for part in slug(name).split("-")) or slug(name) == ""


def test_a_value_is_left_out_or_a_class_but_not_both():
    assert Target(column="diagnosis", classes=("CN", "AD"), leave_out=("MCI",)).leave_out == ("MCI",)
    with pytest.raises(ValidationError, match="leave_out names 'AD', which is one of the classes"):
        Target(column="diagnosis", classes=("CN", "AD"), leave_out=("MCI", "AD"))
