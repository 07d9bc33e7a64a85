"""Models on the Hub: references, what is fetched from where, what needs no network, what is not there."""

import subprocess
import sys

import pytest
from hub_models import artefact, files_of, make_run, real_weights, run
from huggingface_hub import HfApi

import mimzoo
from mimzoo.cards import read_card, store_folder, update_card, write_card
from mimzoo.errors import CardError, UnknownNameError, WeightsError
from mimzoo.hub import find_model, parse_reference
from mimzoo.listing import models_table
from mimzoo.registry import Offer, Registry, registry


@pytest.fixture
def tiny(hub, tmp_path):
    """The card of a run that lies on the Hub as org/tiny, under the tag v1 and on its branch main."""
    card = make_run(tmp_path / "tiny", real_weights())
    hub.hold("org/tiny", {**files_of(card.folder), "LICENSE": b"all of it"}, "v1")
    return card


@pytest.fixture
def shipped(tiny, tmp_path, monkeypatch):
    """A function that lets a plugin offer a card, named `mine`, whose weights lie on the Hub at a tag."""

    def offer(tag="v1", **changes):
        artefacts = {"weights": artefact(real_weights(), repo="org/tiny", tag=tag), **changes}
        folder = tmp_path / "cards" / "mine"
        write_card(update_card(tiny, **artefacts), folder)
        found, mine = registry(), Offer("card", "mine", str(folder), "third", "third-party 1.0")
        known = Registry({**found.plugins, "third": mine.distribution}, (*found.offers, mine), found.failures)
        monkeypatch.setattr("mimzoo.cards.registry", lambda: known)
        return folder

    return offer


def go_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("text", ["hf://org/name", "hf://name@v1", "hf://org/name@", "hf://a/b/c@v1", "org/name@v1"])
def test_a_reference_needs_repository_and_revision(text):
    with pytest.raises(UnknownNameError, match="write hf://org/name@tag"):
        parse_reference(text)


@pytest.mark.parametrize(
    "text", ["../name@v1", "org/..@v1", "org/name@..", "org/name@../../x", "org/na..me@v1", "org/n@/v1"]
)
def test_a_reference_cannot_leave_the_cache(text):
    with pytest.raises(UnknownNameError, match="write hf://org/name@tag"):
        find_model(f"hf://{text}")


def test_a_reference_may_be_a_branch_or_commit():
    assert parse_reference("hf://org/name@refs/pr/1").revision == "refs/pr/1"
    assert str(parse_reference(f"hf://o-r_g/n.a@{'0' * 40}")) == f"hf://o-r_g/n.a@{'0' * 40}"


def test_a_published_model_is_loaded_by_its_reference(tiny):
    model = mimzoo.load("hf://org/tiny@v1")
    assert model.card.name == "tiny" and model.card.block == tiny.block
    assert model.report.complete()


def test_the_address_of_the_hub_may_end_in_a_slash(hub, tiny, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.address}/")
    assert find_model("hf://org/tiny@v1").block == tiny.block
    assert not any("//" in line for line in hub.log)


def test_other_clients_are_served_too(hub, tiny, tmp_path):
    folder = HfApi(endpoint=hub.address).snapshot_download("org/tiny", revision="v1", local_dir=tmp_path / "whole")
    there = {name: (tmp_path / "whole" / name).read_bytes() for name in ("LICENSE", *files_of(tiny.folder))}
    assert folder == str(tmp_path / "whole") and there == {**files_of(tiny.folder), "LICENSE": b"all of it"}


def test_only_the_files_of_a_model_are_fetched(tiny):
    card = find_model("hf://org/tiny@v1")
    assert sorted(path.name for path in card.folder.iterdir()) == ["README.md", "curves.png", "model.safetensors"]


@pytest.mark.parametrize("revision", ["v1", "commit", "1.2.0", "v2-rc1"])
def test_what_is_pinned_and_cached_is_not_asked_for_again(hub, tiny, revision):
    commit = hub.hold("org/tiny", files_of(tiny.folder), "1.2.0")
    hub.hold("org/tiny", files_of(tiny.folder), "v2-rc1")
    reference = f"hf://org/tiny@{commit if revision == 'commit' else revision}"
    folder = find_model(reference).folder
    hub.log.clear()
    assert find_model(reference).folder == folder
    assert hub.log == []


def test_a_branch_is_asked_for_each_time(hub, tiny):
    before = find_model("hf://org/tiny@main")
    make_run(tiny.folder, b"other weights")
    hub.hold("org/tiny", files_of(tiny.folder))
    assert find_model("hf://org/tiny@main").block.weights != before.block.weights


@pytest.mark.parametrize("revision", ["v1", "main"])
def test_offline_what_was_seen_last_is_found(hub, tiny, revision, monkeypatch):
    card = find_model(f"hf://org/tiny@{revision}")
    hub.log.clear()
    assert find_model(f"hf://org/tiny@{revision}", local_files_only=True) == card
    go_offline(monkeypatch)
    assert find_model(f"hf://org/tiny@{revision}") == card
    assert hub.log == []


def test_offline_what_is_not_cached_is_said_so(hub, tiny, shipped, monkeypatch):
    shipped()
    for reference in ("hf://org/tiny@v1", "mine"):
        with pytest.raises(WeightsError, match="hf://org/tiny@v1 is not in the local cache.*go online once"):
            find_model(reference, local_files_only=True)
        with monkeypatch.context() as patch:
            go_offline(patch)
            with pytest.raises(WeightsError, match="not in the local cache"):
                mimzoo.load(reference)
    assert hub.log == []


def listed(name):
    """What the table of models says of one: its kind, its size, where its weights are."""
    rows = zip(*(list(column.cells) for column in models_table().columns), strict=True)
    return next((row[1], row[3], row[-1]) for row in rows if row[0] == name)


@pytest.mark.parametrize("tag", ["v1", "main"])
def test_a_plugins_card_lists_and_loads_like_a_built_in_one(hub, shipped, tag):
    shipped(tag)
    assert listed("mine") == ("encoder", "0.1 MB", "on the Hub")
    model = mimzoo.load("mine")
    assert model.report.complete() and model.card.name == "mine"
    hub.log.clear()
    assert mimzoo.load("mine").report == model.report
    assert hub.log == []
    assert listed("mine") == ("encoder", "0.1 MB", "here")


def test_the_plugins_card_stays_the_source_of_truth(hub, shipped):
    shipped(licence={"code": "Apache-2.0", "data": "CC0-1.0"})
    assert find_model("mine").block.licence.data == "CC0-1.0"


def test_weights_in_the_local_store_come_before_the_hub(hub, shipped):
    shipped()
    folder = store_folder("mine")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(real_weights())
    assert find_model("mine").folder == folder
    assert hub.log == []
    (folder / "model.safetensors").write_bytes(b"those of another model")
    assert find_model("mine").folder.is_relative_to(hub.cache)


def test_weights_beside_the_card_come_before_all(hub, shipped):
    folder = shipped()
    (folder / "model.safetensors").write_bytes(b"whatever")
    assert find_model("mine").folder == folder
    assert hub.log == []


@pytest.mark.parametrize("reference", ["mine", "hf://org/tiny@v1"])
def test_a_cached_file_that_was_damaged_is_thrown_away_and_fetched_again(hub, shipped, reference):
    shipped()
    path = find_model(reference).file("model.safetensors")
    path.resolve().write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not in the local cache"):
        find_model(reference, local_files_only=True)
    with pytest.raises(WeightsError, match="is not the file that its card names.*thrown away"):
        find_model(reference)
    assert mimzoo.load(reference).report.complete()


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (
            "hf://org/tinny@v1",
            "hf://org/tinny@v1: no such repository, or no right to read it; check the name and HF_TOKEN",
        ),
        ("hf://org/tiny@v11", "hf://org/tiny@v11: no such revision in org/tiny; did you mean 'v1'?"),
        (f"hf://org/tiny@{'0' * 40}", "no such revision in org/tiny; known: main, v1"),
        ("hf://org/empty@v1", "holds no README.md, so it is no model of mimzoo"),
        ("hf://org/half@v1", "has no model.safetensors, which its card names"),
        ("hf://org/half@v2", "has no model.onnx, which its card names"),
        ("hf://org/a--b@v1", "cannot be a repository of the Hub"),
    ],
)
def test_what_is_not_there_gets_one_sentence(hub, tiny, reference, sentence):
    hub.hold("org/empty", {"model.safetensors": b"weights"}, "v1")
    hub.hold("org/half", {"README.md": files_of(tiny.folder)["README.md"]}, "v1")
    write_card(update_card(tiny, onnx=artefact(b"graph")), tiny.folder)
    hub.hold("org/half", files_of(tiny.folder), "v2")
    with pytest.raises(UnknownNameError, match=sentence.replace("?", ".")):
        find_model(reference)


def test_a_file_that_a_plugins_card_names_must_be_there(hub, shipped):
    shipped(tag="v2")
    hub.hold("org/tiny", {"README.md": b"---\n---\n"}, "v2")
    with pytest.raises(UnknownNameError, match="hf://org/tiny@v2 has no model.safetensors, which its card names"):
        find_model("mine")


def test_a_private_model_needs_a_token(hub, tiny, monkeypatch):
    hub.hold("org/secret", files_of(tiny.folder), "v1", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UnknownNameError, match="no right to read it; check the name and HF_TOKEN"):
        mimzoo.load("hf://org/secret@v1")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert mimzoo.load("hf://org/secret@v1").report.complete()


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "..\\..\\evil.png", "C:evil.png", "a/../../evil.png"])
def test_a_listing_that_would_leave_the_cache_is_refused(hub, tiny, tmp_path, name):
    hub.stray_names.append(name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        WeightsError, match="lists .*evil.png', which would leave its folder; nothing of it was download"
    ):
        find_model("hf://org/tiny@v1")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model_name: tiny", "model_name: ../../evil"),
        ("  weights:\n", "  weights:\n    repo: ../evil\n    tag: v1\n"),
        ("  weights:\n", "  weights:\n    repo: org/evil\n    tag: ../../v1\n"),
    ],
)
def test_a_card_that_names_a_path_outside_is_refused(hub, tiny, tmp_path, old, new):
    content = files_of(tiny.folder)
    assert old.encode() in content["README.md"]
    hub.hold("org/evil", {**content, "README.md": content["README.md"].replace(old.encode(), new.encode(), 1)}, "v1")
    with pytest.raises(CardError, match="model_name|weights.repo|weights.tag"):
        find_model("hf://org/evil@v1")
    assert not list(tmp_path.parent.rglob("evil"))


PLUGIN = """
from pathlib import Path
from mimzoo.specs import hookimpl

@hookimpl
def mimzoo_cards():
    return [Path(__file__).parent / "cards" / "third-party-tiny"]
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "third-party"
version = "1.0"
[project.entry-points.mimzoo]
third = "third_party"
[tool.hatch.build.targets.wheel]
packages = ["third_party"]
"""


def test_a_third_partys_package_brings_a_card_alone(hub, tiny, tmp_path):
    """Installed by pip, listed, its weights pulled from the Hub by the command line."""
    source, site = tmp_path / "source", tmp_path / "site"
    card = update_card(tiny, weights=artefact(real_weights(), repo="org/tiny", tag="v1"))
    write_card(card, source / "third_party" / "cards" / "third-party-tiny")
    (source / "third_party" / "__init__.py").write_text(PLUGIN)
    (source / "pyproject.toml").write_text(PROJECT)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=120)
    code, out, err = run(hub, tmp_path, "list", PYTHONPATH=str(site))
    assert code == 0, err
    assert any("third-party-tiny" in line and "on the Hub" in line for line in out)
    code, out, err = run(hub, tmp_path, "pull", "third-party-tiny", PYTHONPATH=str(site))
    assert (code, err) == (0, []) and out[-1].startswith("third-party-tiny: encoder, 0.1 MB now in ")
    pulled = tmp_path / "mimzoo" / "models" / "third-party-tiny"
    assert (pulled / "model.safetensors").read_bytes() == real_weights()
    assert read_card(pulled).block.weights.sha256 == card.block.weights.sha256
