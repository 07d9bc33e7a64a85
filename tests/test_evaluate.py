"""Evaluation: what is refused, what is drawn, folds that pool only when they belong together."""

import numpy as np
import pytest

from mimzoo.cards import find_card, override, write_card
from mimzoo.errors import CardError
from mimzoo.evaluate import compare, draw_rows, evaluate_folds
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.scoring import Row
from mimzoo.tasks import make_task
from mimzoo.volume import Grid, Volume

GRID = Grid((12, 12, 12), np.eye(4))


def written(folder, *changes):
    """The folder of a segmenter's card without weights."""
    write_card(override(find_card("vit-mae-phantom-seg"), list(changes)), folder)
    return folder


def fold(number, folds=2):
    return f"finetuning.fold={{folds: {folds}, fold: {number}}}"


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([()], "is no fold; train folds with: mimzoo finetune NAME --fold 0/5"),
        ([(fold(0),)], r"the folds 0 to 1 are needed, each once, but these runs are the folds \[0\]"),
        ([(fold(0),), (fold(0),)], r"these runs are the folds \[0, 0\]"),
        ([(fold(0),), (fold(1), "finetuning.steps=7")], "follow different recipes"),
        ([(fold(0),), (fold(1, 3),)], "follow different recipes"),
    ],
)
def test_runs_that_are_not_all_folds_of_one_recipe_are_refused(tmp_path, runs, sentence):
    folders = [written(tmp_path / str(number), *changes) for number, changes in enumerate(runs)]
    with pytest.raises(CardError, match=sentence):
        evaluate_folds(folders, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_different_tasks_are_not_compared(tmp_path):
    folders = [written(tmp_path / "a"), written(tmp_path / "b", "labels={1: Heart}")]
    with pytest.raises(CardError, match="have different tasks"):
        compare(*folders, tmp_path, out=tmp_path / "out")


def row(answer):
    voxels = np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32)
    return Row("case", Volume(voxels, GRID), answer, answer)


def cube(start, stop):
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[start:stop, start:stop, start:stop] = 1
    return mask


def test_masks_and_regions_are_drawn_and_numbers_are_not(tmp_path):
    regions = make_task({1: "Core", 2: "Edema"}, {"All": ("Core", "Edema"), "Core": ("Core",)}, None)
    draw_rows(tmp_path / "regions.png", [row(RegionMap({"All": cube(2, 9), "Core": cube(4, 7)}, GRID))], regions)
    labels = make_task({1: "Core"}, None, None)
    draw_rows(tmp_path / "labels.png", [row(LabelMap(cube(2, 9), GRID))], labels)
    draw_rows(tmp_path / "numbers.png", [row(0.5)], labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.png", "regions.png"]
