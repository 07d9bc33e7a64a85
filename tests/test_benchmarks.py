"""The cards of public benchmarks: they read what a conversion writes, their networks fit, their page agrees."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import MAKERS, mask, scan

from mimzoo.cards import card_folders, find_card, override
from mimzoo.data.cases import LABELLED
from mimzoo.data.datasets import read_dataset
from mimzoo.data.layouts import LAYOUTS, convert
from mimzoo.data.layouts.table import read_content
from mimzoo.data.reading import read_case, read_truth
from mimzoo.models import build_encoder, build_model
from mimzoo.weights import load_state

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
# Layout -> its card, and what that card answers.
CARDS = {
    "btcv": ("swin-mae-btcv-seg", "labels", 13),
    "brats2021": ("swin-mae-brats-seg", "regions", 3),
    "brats-met-2023": ("swin-mae-brats-met-seg", "regions", 3),
    "brats-ped-2023": ("swin-mae-brats-ped-seg", "regions", 3),
    "mm-whs-ct": ("swin-mae-mmwhs-ct-seg", "labels", 7),
    "mm-whs-mr": ("swin-mae-mmwhs-mr-seg", "labels", 7),
    "lits": ("swin-mae-lits-seg", "labels", 2),
    "msd": ("swin-mae-spleen-seg", "labels", 1),
    "isles2022": ("swin-mae-isles-seg", "labels", 1),
    "mrbrains2013": ("swin-mae-mrbrains-seg", "labels", 3),
    "adni": ("vit-mae-adni-cls", "classes", 2),
    "abide": ("vit-mae-abide-cls", "classes", 2),
}
NAMES = [name for name, _, _ in CARDS.values()]
DRAWING = [layout for layout, (_, kind, _) in CARDS.items() if kind != "classes"]
TELLING = [layout for layout, (_, kind, _) in CARDS.items() if kind == "classes"]
SCORES = {
    "dice": "Dice",
    "hd95_mm": "HD95",
    "surface_dice": "surface Dice",
    "volume_difference": "volume",
    "lesion_dice": "lesion Dice",
    "lesion_hd95_mm": "lesion HD95",
    "lesion_f1": "lesion F1",
    "lesion_count_difference": "lesion count",
}


def card_of(layout):
    return find_card(CARDS[layout][0])


def converted(folder, layout):
    """The folder of a miniature download with its dataset.json; of the Decathlon, that of the spleen."""
    if layout == "msd":
        folder = folder / "Task09_Spleen"
        for number in (2, 3, 6):
            scan(folder / f"imagesTr/spleen_{number}.nii.gz")
            mask(folder / f"labelsTr/spleen_{number}.nii.gz", [1])
    else:
        MAKERS[layout](folder)
    convert(layout, folder)
    return folder


def labelled(dataset):
    return [case for part in LABELLED for case in getattr(dataset, part)]


def commands(text):
    """The words of each mimzoo command that stands on lines of its own."""
    lines = re.findall(r"^    (mimzoo (?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [shlex.split(line.replace("\\\n", " "), comments=True) for line in lines]


# --- data -------------------------------------------------------------------------------------------------------------


def test_every_layout_has_a_card():
    assert list(CARDS) == list(LAYOUTS)


@pytest.mark.parametrize("layout", CARDS)
def test_a_card_answers_what_its_benchmark_asks(layout):
    _, kind, count = CARDS[layout]
    task = card_of(layout).block.task
    assert (task.kind, len(task.names)) == (kind, count)
    assert card_of(layout).kind == ("classifier" if task.of_scan else "segmenter")


@pytest.mark.parametrize("layout", CARDS)
def test_a_card_sees_channels_that_a_conversion_writes(tmp_path, layout):
    dataset, input = read_dataset(converted(tmp_path, layout)), card_of(layout).block.input
    assert set(input.channels) <= set(dataset.channels)
    for case in labelled(dataset):
        assert len(read_case(case, dataset, input).voxels) == len(input.channels)


@pytest.mark.parametrize("layout", DRAWING)
def test_a_card_knows_the_labels_that_a_conversion_writes(tmp_path, layout):
    dataset, block = read_dataset(converted(tmp_path, layout)), card_of(layout).block
    assert block.labels == dataset.labels
    for case in labelled(dataset):
        truth = read_truth(case, read_case(case, dataset, block.input), block.task.labels, dataset.values)
        assert np.unique(truth.voxels).tolist() == [0, *block.labels]


@pytest.mark.parametrize("layout", TELLING)
def test_a_card_knows_the_classes_that_a_conversion_writes(tmp_path, layout):
    dataset, target = read_dataset(converted(tmp_path, layout)), card_of(layout).block.target
    told = {case.targets[target.column] for case in labelled(dataset)}
    assert set(target.classes) <= told


@pytest.mark.parametrize("layout", CARDS)
def test_a_card_states_the_licence_that_a_conversion_writes(tmp_path, layout):
    stated = read_content(converted(tmp_path, layout) / "dataset.json")["licence"]
    assert re.sub("[- ]", "", card_of(layout).block.licence.data) == re.sub("[- ]", "", stated)


@pytest.mark.parametrize("layout", ["brats2021", "brats-met-2023", "brats-ped-2023"])
def test_the_regions_of_a_tumour_lie_within_one_another(layout):
    task = card_of(layout).block.task
    assert task.outputs == ("WT", "TC", "ET")
    whole, core, enhancing = (set(task.regions[name]) for name in task.outputs)
    assert enhancing < core < whole == set(task.labels)
    assert [task.labels[value] for value in enhancing] == ["enhancing tumor"]
    (around,) = (task.labels[value] for value in whole - core)
    assert around in ("edema", "surrounding FLAIR hyperintensity")


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_encoder_and_head_fit_the_crop(name):
    block = find_card(name).block
    with torch.device("meta"):
        answer = build_model(block)(torch.zeros(1, len(block.input.channels), *block.input.crop))
    voxels = () if block.task.of_scan else block.input.crop
    assert answer.shape == (1, len(block.task.outputs), *voxels)


@pytest.mark.parametrize("name", [name for name in NAMES if find_card(name).block.finetuning.start])
def test_the_weights_of_a_start_fit_the_encoder(name):
    block = find_card(name).block
    start = find_card(block.finetuning.start).block
    before = build_encoder(start.encoder, len(start.input.channels), start.input.crop)
    encoder = build_encoder(block.encoder, len(block.input.channels), block.input.crop)
    report = load_state(encoder, before.state_dict(), encoder.grid_parameters, encoder.input_parameters)
    assert bool(report.adapted) == (len(start.input.channels) != len(block.input.channels))


@pytest.mark.parametrize(("layout", "dilation", "minimum"), [("brats-met-2023", 1, 2), ("brats-ped-2023", 3, 50)])
def test_lesions_are_counted_as_by_the_challenge(layout, dilation, minimum):
    scoring = card_of(layout).block.finetuning.scoring
    assert (scoring.lesion_dilation_voxels, scoring.lesion_minimum_voxels) == (dilation, minimum)
    assert {"lesion_dice", "lesion_hd95_mm"} <= set(scoring.metrics)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", CARDS)
def test_page_and_card_show_the_same_three_commands(layout):
    name, of_page, of_card = CARDS[layout][0], commands(PAGE), commands(card_of(layout).text)
    found = [number for number, words in enumerate(of_page) if words[:4] == ["mimzoo", "data", "convert", layout]]
    assert len(found) == 1
    convert_, finetune, evaluate = of_page[found[0] : found[0] + 3]
    assert finetune[:4] == ["mimzoo", "finetune", name, "--data"]
    assert evaluate == ["mimzoo", "evaluate", f"./runs/{name}", "--data", convert_[4]]
    assert of_card[:3] == [convert_, finetune, evaluate]


@pytest.mark.parametrize("layout", CARDS)
def test_no_command_begins_from_weights_that_do_not_exist(layout):
    card = card_of(layout)
    begins = [words[words.index("--from") + 1] for words in commands(card.text) if "--from" in words]
    start = card.block.finetuning.start
    assert begins == (["scratch"] if start and find_card(start).block.weights is None else [])


@pytest.mark.parametrize("layout", CARDS)
def test_the_table_of_the_page_says_what_the_card_does(layout):
    block = card_of(layout).block
    (row,) = re.findall(rf"^\| `{CARDS[layout][0]}` .*$", PAGE, re.MULTILINE)
    of_layout, channels, spacing, intensity, answers, scores = (cell.strip() for cell in row.split("|")[2:-1])
    assert of_layout == f"`{layout}`"
    assert channels == ", ".join(block.input.channels)
    assert spacing == " x ".join(f"{mm:g}" for mm in block.input.spacing_mm)
    assert intensity == told(block.input.intensity)
    if block.target is not None:
        assert (answers, scores) == (" or ".join(block.target.classes), "AUC, balanced accuracy")
    else:
        assert scores == ", ".join(SCORES[metric] for metric in block.finetuning.scoring.metrics)


def told(intensity):
    """How the page words an intensity mode."""
    if intensity.mode == "window_hu":
        return "{:g} to {:g} HU".format(*intensity.window_hu)
    if intensity.mode == "zscore":
        return {"nonzero": "z-score of non-zero voxels", "all": "z-score of all voxels"}[intensity.voxels]
    return "percentiles {:g} to {:g}".format(*intensity.percentiles)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_that_it_has_no_weights_as_long_as_it_has_none(name):
    card = find_card(name)
    text = " ".join(card.text.split())
    assert ("Its weights do not exist yet" in text) == (card.block.weights is None)
    assert "Not a medical device." in text


def proposed_changes():
    """The changes that the texts propose: in a command of the card it names, within a sentence of the card itself."""
    for name in NAMES:
        text = find_card(name).text
        for words in commands(text):
            yield words[2], [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        for found in re.findall(r"`--set ([^`]*)`", text):
            yield name, shlex.split(found)


@pytest.mark.parametrize(("name", "changes"), [pair for pair in proposed_changes() if pair[1]])
def test_a_card_takes_the_changes_that_the_texts_propose(name, changes):
    assert override(find_card(name), changes).block.overrides == tuple(changes)


@pytest.mark.parametrize("name", sorted(card_folders()))
def test_every_conversion_that_a_card_names_is_known(name):
    words = [words for words in commands(find_card(name).text) if words[1:3] == ["data", "convert"]]
    assert {layout for _, _, _, layout, _ in words} <= set(LAYOUTS)
    if {"btcv", "brats"} & set(name.split("-")):
        assert len(words) == 1
