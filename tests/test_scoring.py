"""Answers against the truth for every kind of task, in the scan's own grid."""

import numpy as np
import pytest
from generated import write_tumours, write_ventricles

from mimzoo.cards import find_card, override
from mimzoo.data.layouts import convert
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.metrics import Classification, Regression, Scores, Summary
from mimzoo.protocols import task_dataset
from mimzoo.scoring import Judged, Row, answer_cases, case_values, score_row, summarise_cases, summary_values
from mimzoo.tasks import Target, make_task
from mimzoo.volume import Grid, Volume

GRID = Grid((4, 4, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
CLASSES = make_task(None, None, Target(column="diagnosis", classes=("CN", "AD")))
VALUE = make_task(None, None, Target(column="age", unit="years"))
LABELS = make_task({1: "Core", 2: "Edema"}, None, None)


@pytest.fixture(scope="module")
def tumours(tmp_path_factory):
    folder = write_tumours(tmp_path_factory.mktemp("raw") / "brats", 3)
    convert("brats2021", folder)
    return folder


def test_the_truth_of_regions_are_the_unions_of_their_labels(tumours):
    card = override(find_card("swin-mae-brats-seg"), ["finetuning.start=null"])
    dataset = task_dataset(card, tumours)
    seen = []
    nothing = RegionMap({name: np.zeros((24, 24, 24), np.uint8) for name in card.block.task.outputs}, GRID)
    rows = list(
        answer_cases(
            lambda scan: seen.append(scan.voxels.shape) or nothing, dataset.training, dataset, card,
            lambda done, total, name: seen.append((done, total)),
        )
    )  # fmt: skip
    assert seen[:2] == [(4, 24, 24, 24), (1, 2)]
    masks = rows[0].truth.masks
    assert list(masks) == ["WT", "TC", "ET"]
    assert (masks["WT"] >= masks["TC"]).all() and (masks["TC"] >= masks["ET"]).all()
    assert masks["WT"].sum() > masks["TC"].sum() > masks["ET"].sum() > 0
    scores = score_row(rows[0], card.block.task, card.block.finetuning.scoring)
    assert all(found.dice == 0 for found in scores.values())


def test_the_truth_itself_scores_one(tumours):
    card = override(find_card("swin-mae-brats-seg"), ["finetuning.start=null"])
    dataset = task_dataset(card, tumours)
    for row in answer_cases(lambda scan: None, dataset.validation, dataset, card):
        perfect = Row(row.name, row.scan, row.truth, row.truth)
        scored = {row.name: score_row(perfect, card.block.task, card.block.finetuning.scoring)}
        result = summarise_cases(scored, card.block.task)
        assert isinstance(result, Summary) and summary_values(result)["dice"] == 1
        assert case_values(scored, card.block.task) == {row.name: 1.0}


def test_a_scan_is_judged_by_what_is_true_of_it(tmp_path):
    folder = write_ventricles(tmp_path / "adni", 10)
    convert("adni", folder)
    card = override(find_card("vit-mae-adni-cls"), ["finetuning.start=null"])
    dataset = task_dataset(card, folder)
    always = {"CN": 0.75, "AD": 0.25}
    rows = answer_cases(lambda scan: always, dataset.training, dataset, card)
    scored = {row.name: score_row(row, card.block.task, card.block.finetuning.scoring) for row in rows}
    assert {found.truth for found in scored.values()} == {0.0, 1.0}
    result = summarise_cases(scored, card.block.task)
    assert isinstance(result, Classification) and summary_values(result)["balanced_accuracy"] == 0.5
    values = case_values(scored, card.block.task)
    assert all(values[name] == (0.25 if found.truth else 0.75) for name, found in scored.items())


def test_a_value_is_judged_by_its_absolute_error():
    scored = {"a": Judged(70.0, {"age": 72.0}), "b": Judged(80.0, {"age": 76.0})}
    result = summarise_cases(scored, VALUE)
    assert isinstance(result, Regression)
    assert (
        summary_values(result)["mean_absolute_error"] == 3
        and next(iter(summary_values(result))) == "mean_absolute_error"
    )
    assert case_values(scored, VALUE) == {"a": 2.0, "b": 4.0}


def test_a_class_without_a_case_leaves_no_figure_that_needs_it():
    scored = {name: Judged(float(n), {"CN": 0.6, "MCI": 0.3, "AD": 0.1}) for n, name in enumerate("ab")}
    three = make_task(None, None, Target(column="diagnosis", classes=("CN", "MCI", "AD")))
    assert summary_values(summarise_cases(scored, three)) == {"accuracy": 0.5}


def test_a_case_that_shows_nothing_counts_as_right_when_nothing_is_drawn():
    scored = {"a": {"Core": Scores(dice=0.5), "Edema": None}, "b": {"Core": None, "Edema": None}}
    assert case_values(scored, LABELS) == {"a": 0.5, "b": 1.0}


def test_masks_are_never_held_against_numbers():
    empty = np.zeros((4, 4, 4), np.uint8)
    row = Row("a", Volume(empty[None].astype(np.float32), GRID), LabelMap(empty, GRID), {"CN": 1.0})
    with pytest.raises(TypeError, match="a: a dict cannot be held against a LabelMap"):
        score_row(row, CLASSES, find_card("vit-mae-phantom-seg").block.finetuning.scoring)
