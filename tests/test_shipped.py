"""Every shipped model: its files are those of its card, and it still computes what it was found to compute."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from golden import activation_of, mask_of, path_of, read_golden
from reproduce import figure_of
from ship import LARGEST_BYTES, RECORDS
from study_page import read_record

from mimzoo.cards import read_card
from mimzoo.deploy import Segmenter
from mimzoo.weights import read_about

CARDS = Path(__file__).parents[1] / "model_cards"
SHIPPED = sorted(path.parent.name for path in CARDS.glob("*/model.safetensors"))
FILES = {"weights": "model.safetensors", "pretraining_weights": "pretraining.safetensors", "onnx": "model.onnx"}
LARGEST_IN_ALL = 60_000_000


def size_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_its_files_are_those_of_its_card(name):
    card = read_card(CARDS / name)
    for key, file in FILES.items():
        artefact = getattr(card.block, key)
        path = CARDS / name / file
        assert path.is_file() == (artefact is not None), file
        if artefact is not None:
            content = path.read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (artefact.sha256, artefact.bytes)
    assert card.block.metrics and card.block.command and card.block.licence
    assert (CARDS / name / "curves.png").is_file()
    assert max(path.stat().st_size for path in (CARDS / name).iterdir()) <= LARGEST_BYTES


AGAIN = "python tools/reproduce.py "
RECORDED = [name for name in SHIPPED if read_card(CARDS / name).block.command.startswith(AGAIN)]


@pytest.mark.parametrize("name", RECORDED)
def test_the_run_that_its_card_names_is_recorded_with_its_figures(name):
    block, words = read_card(CARDS / name).block, (CARDS / name / "README.md").read_text()
    run = block.command.removeprefix(AGAIN).removesuffix(" --data DIR")
    record, figure = read_record(RECORDS / f"{run}.json"), block.metrics[0]
    assert figure.value == pytest.approx(figure_of(record), abs=1e-4) and words.count(run) >= 2
    recipe = "finetuning" if block.finetuning else "pretraining"
    assert record.told["recipe"][recipe]["steps"] == getattr(block, recipe).steps
    assert "validation scans;" not in figure.protocol


def test_all_together_are_small():
    assert sum(size_of(CARDS / name) for name in SHIPPED) <= LARGEST_IN_ALL
    assert {path.stem for path in path_of("x").parent.iterdir()} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_its_activation_is_the_golden_one(name):
    golden, found = read_golden(name).activation, activation_of(CARDS / name)
    assert np.abs(found - golden).max() <= 1e-3 * np.abs(golden).max()


SEGMENTERS = [name for name in SHIPPED if (CARDS / name / "model.onnx").is_file()]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_its_onnx_file_and_weights_name_the_very_card(name):
    card = read_card(CARDS / name)
    assert Segmenter(CARDS / name).card_sha256 == card.sha256()
    assert read_about(CARDS / name / "model.safetensors")["card_sha256"] == card.sha256()


@pytest.mark.parametrize("name", SEGMENTERS)
def test_its_mask_is_the_golden_one(name, data_root):
    golden = read_golden(name)
    found, labels = mask_of(CARDS / name, data_root / golden.scan), read_card(CARDS / name).block.labels
    assert labels and set(np.unique(golden.mask)) == {0, *labels}
    for label in labels:
        both = (found == label, golden.mask == label)
        assert 2 * (both[0] & both[1]).sum() >= 0.999 * (both[0].sum() + both[1].sum())
