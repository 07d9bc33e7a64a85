"""Options that become assignments to a card."""

import pytest

from mimzoo.cards import find_card, override
from mimzoo.errors import CardError, DataError
from mimzoo.options import finetuning_assignments, fold_assignment, split_assignment


def changed(assignment):
    return override(find_card("vit-mae-phantom-seg"), [assignment]).block.finetuning


def test_a_fold_is_written_as_its_number_of_how_many():
    fold = changed(fold_assignment("2/5")).fold
    assert (fold.folds, fold.fold) == (5, 2)


@pytest.mark.parametrize("text", ["2", "5/", "a/5", "-1/5", ""])
def test_what_is_no_fold_is_refused(text):
    with pytest.raises(DataError, match="is no fold; write its number and how many there are"):
        fold_assignment(text)


@pytest.mark.parametrize("text", ["5/5", "0/1"])
def test_folds_count_from_0(text):
    with pytest.raises(CardError, match="fold"):
        changed(fold_assignment(text))


def test_a_split_is_read_from_a_file(tmp_path):
    (tmp_path / "split.json").write_text('{"training": ["a, b"], "validation": ["c: d"]}')
    split = changed(split_assignment(tmp_path / "split.json")).split
    assert (split.training, split.validation) == (("a, b",), ("c: d",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[1]", "must be"), ("{", "not valid JSON"), ('{"training": []}', "must be"), (None, "cannot be read")],
)
def test_a_file_without_a_split_is_refused(tmp_path, content, sentence):
    path = tmp_path / "split.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=sentence):
        split_assignment(path)


def test_a_split_and_a_fold_together_are_refused():
    card = override(find_card("vit-mae-phantom-seg"), [fold_assignment("0/5")])
    with pytest.raises(CardError, match="both a split and a fold"):
        override(card, ["finetuning.split={training: [a], validation: [b]}"])


def test_options_that_are_given_become_part_of_the_recipe():
    assert finetuning_assignments(None, None, None, None, None) == []
    card = find_card("vit-mae-phantom-seg")
    recipe = override(card, finetuning_assignments("scratch", "0.5", "1/3", None, 7)).block.finetuning
    assert (recipe.start, recipe.labelled, recipe.fold.fold, recipe.seed) == (None, 0.5, 1, 7)
    few = override(card, finetuning_assignments("vit-mae-phantom", "3", None, None, None)).block.finetuning
    assert (few.start, few.labelled) == ("vit-mae-phantom", 3)
