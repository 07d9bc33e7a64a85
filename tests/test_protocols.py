"""Which cases a recipe sees, and what is refused before anything is prepared."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from generated import write_tumours, write_ventricles
from scans import make_dataset, save

from mimzoo.cards import find_card, override, read_card, write_card
from mimzoo.data.layouts import convert
from mimzoo.data.store import prepare_dataset
from mimzoo.errors import CardError, DataError
from mimzoo.options import split_assignment
from mimzoo.protocols import recipe_of, task_dataset, training_dataset, truths, use_of, write_split

BOXES = ["labels={1: Left, 2: Right}", "input.channels=[MR]", "finetuning.start=null"]


def boxes(*changes):
    """The card of a segmenter of the two boxes."""
    return override(find_card("vit-mae-phantom-seg"), [*BOXES, "finetuning.labelled=null", *changes])


def ventricles(*changes):
    return override(find_card("vit-mae-adni-cls"), ["finetuning.start=null", *changes])


def ids(cases):
    return [case.id for case in cases]


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    folder = write_ventricles(tmp_path_factory.mktemp("raw") / "adni", 10)
    convert("adni", folder)
    return folder


def edited(folder, change):
    """The folder with its dataset.json changed."""
    path = folder / "dataset.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    return folder


def test_the_data_sets_own_split_is_kept_and_unlabelled_scans_are_left_out(tmp_path):
    dataset = training_dataset(boxes(), make_dataset(tmp_path))
    assert (len(dataset.training), len(dataset.validation), dataset.unlabelled) == (3, 1, ())
    assert dataset.labels == {1: "Left", 2: "Right"}


def test_a_fixed_split_takes_the_place_of_the_data_sets_own(tmp_path):
    split = "finetuning.split={training: [case_003, case_000], validation: [case_001]}"
    dataset = training_dataset(boxes(split), make_dataset(tmp_path))
    assert (ids(dataset.training), ids(dataset.validation)) == (["case_003", "case_000"], ["case_001"])
    with pytest.raises(DataError, match="case_004"):
        task_dataset(boxes("finetuning.split={training: [case_004], validation: [case_001]}"), tmp_path)


def test_every_case_is_in_the_validation_part_of_one_fold(tmp_path):
    folder = make_dataset(tmp_path)
    parts = [training_dataset(boxes(f"finetuning.fold={{folds: 2, fold: {n}}}"), folder).validation for n in (0, 1)]
    assert sorted(ids(parts[0]) + ids(parts[1])) == [f"case_{n:03d}" for n in range(4)]


@pytest.mark.parametrize(("labelled", "count"), [("2", 2), ("0.34", 1), ("1", 1)])
def test_few_labels_are_a_number_or_a_share_of_the_training_cases(tmp_path, labelled, count):
    dataset = training_dataset(boxes(f"finetuning.labelled={labelled}"), make_dataset(tmp_path))
    assert (len(dataset.training), len(dataset.validation)) == (count, 1)


def test_the_seed_chooses_the_few(tmp_path):
    folder = make_dataset(tmp_path, training=8)
    few = [
        ids(training_dataset(boxes("finetuning.labelled=2", f"finetuning.seed={n}"), folder).training) for n in (0, 1)
    ]
    assert few[0] != few[1]


def test_what_is_true_of_scans_is_the_number_of_the_class_or_the_value(brains):
    card, years = ventricles(), ventricles("target={column: age, unit: years}")
    classes, ages = (truths(task_dataset(c, brains), c.block.task) for c in (card, years))
    assert set(classes.values()) == {0.0, 1.0} and all(60 <= age < 90 for age in ages.values())
    assert classes.keys() == ages.keys() and truths(task_dataset(card, brains), boxes().block.task) == {}


def test_cases_between_the_classes_can_be_left_out(brains):
    card = ventricles("target={column: diagnosis, classes: [CN, AD], leave_out: [MCI]}")

    def one_is_mci(table):
        table["training"][0]["targets"]["diagnosis"] = "MCI"

    folder = Path(shutil.copytree(brains, brains.parent / "mci"))
    edited(folder, one_is_mci)
    assert len(truths(task_dataset(card, folder), card.block.task)) == 9
    with pytest.raises(DataError, match="has the diagnosis 'MCI', which is no class"):
        task_dataset(ventricles("target={column: diagnosis, classes: [CN, AD]}"), folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["labels={1: Liver, 2: Right}"], "labels .*Left.*, card vit-mae-phantom-seg labels .*Liver"),
        (["finetuning.labelled=9"], "cannot take 9 labelled training cases; give 1 to 3"),
        (["finetuning.fold={folds: 9, fold: 0}"], "cannot fill 9 folds"),
    ],
)
def test_what_does_not_serve_the_task_is_refused(tmp_path, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        training_dataset(boxes(*changes), make_dataset(tmp_path))


def test_a_channel_that_the_data_set_lacks_is_refused(tmp_path):
    folder = write_tumours(tmp_path / "brats", 2)
    convert("brats2021", folder)
    card = override(find_card("swin-mae-brats-seg"), ["input.channels=[FLAIR, T1, T1gd, T2]"])
    with pytest.raises(DataError, match="the model sees the channel 'T1gd', but the data set has FLAIR, T1, T1ce, T2"):
        task_dataset(card, folder)


def test_a_case_without_a_label_map_is_refused(brains):
    card = override(find_card("vit-mae-phantom-seg"), ["input.channels=[T1]", "finetuning.start=null"])
    with pytest.raises(DataError, match="has no label map, but the card draws masks"):
        task_dataset(card, brains)


def test_a_part_with_a_single_class_is_refused(brains, tmp_path):
    folder = Path(shutil.copytree(brains, tmp_path / "single"))

    def all_healthy(table):
        for entry in table["training"]:
            entry["targets"]["diagnosis"] = "CN"

    edited(folder, all_healthy)
    with pytest.raises(DataError, match="every training case has the diagnosis 'CN'"):
        training_dataset(ventricles(), folder)


def test_a_subject_in_both_parts_is_refused(tmp_path):
    folder = make_dataset(tmp_path)

    def one_subject(table):
        for part in ("training", "validation"):
            table[part][0]["subject"] = "somebody"

    edited(folder, one_subject)
    with pytest.raises(DataError, match="subject 'somebody' is in both training .* and validation"):
        training_dataset(boxes(), folder)


def test_a_card_without_a_recipe_is_refused():
    with pytest.raises(CardError, match="vit-mae-phantom has no fine-tuning recipe"):
        recipe_of(find_card("vit-mae-phantom"))


def test_labels_outside_the_table_are_refused_while_preparing(tmp_path):
    folder = make_dataset(tmp_path / "data")
    path = folder / "labels" / "case_000.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj).copy()
    voxels[0, 0, 0] = 7
    save(path, voxels)
    card = boxes()
    with pytest.raises(DataError, match=r"case_000: .*label value\(s\) \[7\] are not among \[0, 1, 2\]"):
        prepare_dataset(training_dataset(card, folder), card.block.input, card.block.labels, tmp_path / "store")


# --- what cases were to a training ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A function from assignments to the card of a run, with what it was trained and selected on, and the data."""
    data = make_dataset(tmp_path / "data")

    def begin(*changes):
        write_card(boxes(*changes), tmp_path / "run")
        write_split(training_dataset(boxes(*changes), data), tmp_path / "run")
        return read_card(tmp_path / "run"), data

    return begin


@pytest.mark.parametrize(
    ("changes", "split", "sentence"),
    [
        ([], "validation", "the weights were selected on these cases"),
        ([], "training", "the weights were trained on these cases"),
        (["finetuning.labelled=1"], "training", "the weights were trained on 1 and selected on 0 of these cases"),
        (
            ["finetuning.split={training: [case_001], validation: [case_002]}"],
            "validation",
            "the weights were neither trained nor selected on these cases",
        ),
        (
            ["finetuning.split={training: [case_001], validation: [case_002]}"],
            "training",
            "the weights were trained on 1 and selected on 1 of these cases",
        ),
    ],
)
def test_a_run_tells_what_cases_were_to_its_training(run, changes, split, sentence):
    card, data = run(*changes)
    assert use_of(card, task_dataset(boxes(), data), split) == sentence


def test_cases_of_equal_names_in_other_data_were_not_trained_on(run, tmp_path):
    card, _ = run()
    other = edited(make_dataset(tmp_path / "other"), lambda table: table.update(name="Others"))
    assert "neither trained nor selected" in use_of(card, task_dataset(boxes(), other), "training")


def test_without_a_record_of_its_own_a_card_goes_by_its_recipe(run):
    card, data = run()
    card.file("split.json").unlink()
    assert use_of(card, task_dataset(boxes(), data), "training") == "the weights were trained on these cases"


def test_the_split_of_a_run_serves_another_one(run):
    card, data = run("finetuning.labelled=2")
    again = boxes(split_assignment(card.file("split.json")))
    assert ids(training_dataset(again, data).training) == json.loads(card.file("split.json").read_text())["training"]
