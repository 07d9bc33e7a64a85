"""What is told of models: their names by pattern, their facts without fetching, a table for the eye."""

import re

import pytest
from conftest import tiny
from rich.console import Console

import mimzoo
from mimzoo.blocks import Artefact
from mimzoo.cards import card_folders, find_card, store_folder, update_card, write_card
from mimzoo.errors import UnknownNameError
from mimzoo.listing import info_table, models_table
from mimzoo.runs import keep_weights

SHIPPED = "vit-mae-hippocampus"


def text(table):
    console = Console(width=240, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table)
    return console.export_text()


def stored(name, **changes):
    """A card in the local store."""
    card = update_card(tiny("pretraining", "vit-mae-phantom"), **changes)
    write_card(card, store_folder(name))
    return card


def test_models_are_listed_by_pattern():
    assert mimzoo.list_models() == sorted(card_folders())
    assert mimzoo.list_models("*-hippocampus") == [n for n in sorted(card_folders()) if n.endswith("-hippocampus")]
    assert mimzoo.list_models("nothing-like-it") == []


def test_the_local_store_is_listed_with_the_plugins():
    stored("mine")
    assert "mine" in mimzoo.list_models() and mimzoo.info("mine").weights == "yet to be trained"


def test_the_facts_of_a_model_are_those_of_its_card():
    found, block = mimzoo.info(SHIPPED), find_card(SHIPPED).block
    assert (found.name, found.kind, found.encoder, found.weights) == (SHIPPED, "encoder", "vit-tiny", "here")
    assert found.bytes == block.weights.bytes and found.metrics == block.metrics and found.licence == block.licence
    assert found.data == block.pretraining.data and found.origin is None


def test_weights_that_a_card_names_are_here_on_the_hub_or_missing(tmp_path):
    artefact = Artefact(sha256="ab" * 32, bytes=7)
    stored("missing", weights=artefact)
    stored("published", weights=artefact.model_copy(update={"repo": "org/name", "tag": "v1"}))
    assert mimzoo.info("missing").weights == "missing" and mimzoo.info("published").weights == "on the Hub"
    import torch

    keep_weights(stored("kept"), store_folder("kept"), {"weights": {"encoder.a": torch.ones(2)}})
    assert mimzoo.info("kept").weights == "here"


def test_the_table_has_size_data_licence_metrics_and_where_the_weights_are():
    (row,) = [line for line in text(models_table(SHIPPED)).splitlines() if line.startswith(SHIPPED)]
    loss = f"validation loss {find_card(SHIPPED).block.metrics[0].value:.3f}"
    for told in ("encoder", "vit-tiny", "10.9 MB", "CC-BY-SA-4.0", loss, "here"):
        assert told in row


def test_a_broken_card_in_the_store_breaks_no_other():
    store_folder("unread").mkdir(parents=True)
    (store_folder("unread") / "README.md").write_text("no front matter")
    shown = text(models_table())
    assert SHIPPED in shown and re.search(r"^unread +broken ", shown, re.MULTILINE) and "no YAML" in shown


@pytest.mark.parametrize(
    ("pattern", "advice"), [("vit-mae-hipocampus", "did you mean 'vit-mae-hippocampus'"), ("zzz", "mimzoo list")]
)
def test_a_pattern_that_no_name_matches_is_answered(pattern, advice):
    with pytest.raises(UnknownNameError, match=f"no model's name matches '{pattern}'; .*{advice}"):
        models_table(pattern)


def test_what_is_told_of_one_model_names_all_that_a_user_must_know():
    shown, block = text(info_table(SHIPPED)), find_card(SHIPPED).block
    loss = f"validation loss {block.metrics[0].value:.4f}"
    for told in ("MR at 1 x 1 x 1 mm", "CC-BY-SA-4.0", block.command, loss, "here, 10.9 MB"):
        assert told in shown
