"""Cards: strict reading with key paths, names in three spellings, overrides, round trips."""

from pathlib import Path

import pytest

from mimzoo.cards import card_folders, find_card, override, read_card, store_folder, update_card, write_card
from mimzoo.errors import CardError, UnknownNameError

# Its card is never rewritten by a run.
SHIPPED = "vit-mae-phantom-seg"


def copy_with(tmp_path, old, new):
    """Write the shipped card with `old` replaced, and return its folder."""
    text = (find_card(SHIPPED).folder / "README.md").read_text()
    assert old in text
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "README.md").write_text(text.replace(old, new, 1))
    return folder


@pytest.mark.parametrize("name", sorted(card_folders()))
def test_every_shipped_card_is_valid_and_survives_a_round_trip(name, tmp_path):
    card = find_card(name)
    write_card(card, tmp_path / name)
    again = read_card(tmp_path / name)
    assert again.block == card.block and again.text == card.text and again.sha256() == card.sha256()
    assert again.front == {**card.front, "model_name": name}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("lr: 1.5e-3", "lr: 2e-3", r"finetuning\.optimiser\.lr: a number is needed, got the text '2e-3'; YAML reads"),
        ("steps:", "stepz:", r"finetuning\.stepz: unknown key; did you mean 'steps'"),
        ("channels: [CT]", "channels: [no]", r"input\.channels\.0: .*string, got false"),
        ("crop: [32, 32, 32]", "crop: [32, 32]", r"input\.crop"),
        ("crop: [32, 32, 32]", "crop: [32, 32, 0]", r"input\.crop\.2"),
        ("mode: window_hu", "mode: window_hq", r"input\.intensity"),
        ("window_hu: [-250.0, 350.0]", "window_hu: [350.0, -250.0]", r"input\.intensity\.window_hu.*must rise"),
        ("1: Liver", "0: Liver", r"labels\.0"),
        ("2: Spleen", "2: Liver", r"different names"),
        ("batch: 2", "batch: 2\n    accumulate: 3", r"finetuning: .*multiple of accumulate"),
        ("format: 1", "format: 9", r"format"),
        ("licence: {code: Apache-2.0, data: Apache-2.0}", "", r"licence: this key is required"),
    ],
)
def test_a_wrong_card_is_refused_with_its_key_path(tmp_path, old, new, sentence):
    with pytest.raises(CardError, match=sentence):
        read_card(copy_with(tmp_path, old, new))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("# no front matter", "no YAML front matter"),
        ("---\na: [1\n---\n", "no valid YAML"),
        ("---\n- 1\n---\n", "must be a mapping"),
        ("---\nlicense: mit\n---\n", "no `mimzoo:` block"),
    ],
)
def test_a_file_that_is_no_card_is_refused(tmp_path, content, sentence):
    (tmp_path / "README.md").write_text(content)
    with pytest.raises(CardError, match=sentence):
        read_card(tmp_path)


def test_a_bare_name_is_never_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_card(find_card(SHIPPED), tmp_path / "mine")
    with pytest.raises(UnknownNameError, match=r"no model is called 'mine'.*write \./mine"):
        find_card("mine")
    assert find_card("./mine").block == find_card(Path("mine")).block == find_card(SHIPPED).block


@pytest.mark.parametrize("reference", ["org/name", "hf:org", "Vit", "a b"])
def test_what_is_no_name_is_answered_with_the_three_spellings(reference):
    with pytest.raises(UnknownNameError, match="bare name .* folder .* hf://org/name@tag"):
        find_card(reference)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'vit-mae-hippocampus'"):
        find_card("vit-mae-hipocampus")


def test_the_local_store_offers_names_too():
    write_card(find_card(SHIPPED), store_folder("my-model"))
    assert find_card("my-model").name == "my-model"


def test_overrides_are_applied_checked_and_recorded():
    card = override(find_card(SHIPPED), ["finetuning.steps=7", "finetuning.optimiser.lr=1e-4", "input.crop=[8, 8, 8]"])
    assert card.block.finetuning.steps == 7
    assert card.block.finetuning.optimiser.lr == 1e-4
    assert card.block.input.crop == (8, 8, 8)
    assert card.block.overrides[0] == "finetuning.steps=7"
    assert card.sha256() != find_card(SHIPPED).sha256()


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("finetuning.steps", "is no assignment"),
        ("finetunning.steps=3", "no key 'finetunning'; did you mean 'finetuning'"),
        ("finetuning.stepz=3", "did you mean 'steps'"),
        ("finetuning.steps=ten", "a number is needed, got the text 'ten'"),
        ("pretraining.steps=3", "'pretraining' is not set in this card"),
    ],
)
def test_a_wrong_override_is_refused(assignment, sentence):
    with pytest.raises(CardError, match=sentence):
        override(find_card(SHIPPED), [assignment])


def test_what_was_measured_does_not_change_the_recipe_hash():
    card = find_card(SHIPPED)
    assert update_card(card, command="mimzoo finetune").sha256() == card.sha256()
    assert update_card(card, labels={1: "A"}).sha256() != card.sha256()


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("regions={All: [Liver, Livr]}", "region 'All' names the unknown label 'Livr'; did you mean 'Liver'"),
        ("finetuning.scoring={metrics: [hd95_mm]}", "scoring.metrics must have dice"),
        ("target={column: age}", "a target is told of a whole scan, so there are no `labels`"),
        ("finetuning.labelled=1.5", "finetuning.labelled"),
    ],
)
def test_a_task_that_cannot_be_is_refused(assignment, sentence):
    with pytest.raises(CardError, match=sentence):
        override(find_card(SHIPPED), [assignment])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit-mae-phantom", "encoder"), (SHIPPED, "segmenter"), ("vit-mae-adni-cls", "classifier")],
)
def test_the_kind_of_a_card_is_that_of_its_task(name, kind):
    assert find_card(name).kind == kind
