"""Publishing: one commit and a tag that never moves, what is refused before anything is sent, races, proofs."""

import hashlib
import json

import pytest
import yaml
from hub_models import METRIC, artefact, files_of, make_run, real_weights, run
from hub_server import Handler
from huggingface_hub import ModelCard

import mimzoo
from mimzoo.blocks import ARTEFACTS
from mimzoo.cards import read_card, render_card, update_card, write_card
from mimzoo.errors import CardError, MimzooError, UnknownNameError, WeightsError
from mimzoo.publish import publish

EVERYTHING = {"pretraining_weights": ("pretraining.safetensors", b"decoder"), "onnx": ("model.onnx", b"graph")}
ORIGIN = {
    "format": "peer",
    "file": "peer.pth",
    "sha256": "0" * 64,
    "bytes": 1,
    "licence": "CC-BY-NC-4.0",
    "republish": False,
    "citation": "Peer et al. 2024",
}


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run, its weights real."""
    return make_run(tmp_path / "tiny", real_weights()).folder


def at(hub, tag="v1"):
    """What the repository org/tiny holds under a tag."""
    repository = hub.repositories["org/tiny"]
    return repository.commits[repository.tags[tag]]


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def commits(hub):
    return [line for line in hub.log if line.startswith("POST") and "/commit/" in line]


def sent(hub):
    return [line for line in hub.log if not line.startswith(("GET", "HEAD"))]


def test_a_run_is_published_in_one_commit_under_a_tag(hub, tmp_path):
    card = make_run(tmp_path / "tiny", others=EVERYTHING)
    done = publish(card.folder, "org/tiny")
    assert (done.repo, done.tag, done.made) == ("org/tiny", "v1", True)
    assert done.url == f"{hub.address}/org/tiny/tree/v1"
    assert len(commits(hub)) == 1 and at(hub) is hub.repositories["org/tiny"].commits[done.commit]
    there = at(hub)
    copied = {"README.md", "curves.png", "model.onnx", "model.safetensors", "pretraining.safetensors"}
    assert there.keys() == copied | {".gitattributes", "config.json", "metrics.json"}
    assert all(there[name] == (card.folder / name).read_bytes() for name in copied)
    assert {file.name: (file.sha256, file.bytes) for file in done.files} == {
        name: (hashlib.sha256(there[name]).hexdigest(), len(there[name])) for name in there if name[0] != "."
    }


def test_what_is_published_loads_by_its_reference(hub, finished):
    done = publish(finished, "org/tiny")
    model = mimzoo.load(f"hf://{done.repo}@{done.tag}")
    assert model.report.complete() and model.card.block == read_card(finished).block


def test_the_derived_files_say_what_the_card_says(hub, finished):
    publish(finished, "org/tiny")
    config, metrics = (json.loads(at(hub)[name]) for name in ("config.json", "metrics.json"))
    block = read_card(finished).block.model_dump(mode="json")
    assert (config["library_name"], config["name"], config["kind"]) == ("mimzoo", "tiny", "encoder")
    assert config["encoder"] == block["encoder"] and config["input"]["spacing_mm"] == block["input"]["spacing_mm"]
    assert metrics == {"model": "tiny", "metrics": [METRIC]}


def test_metrics_that_were_measured_are_published_as_they_are(hub, finished):
    (finished / "metrics.json").write_text('{"cases": {}}')
    publish(finished, "org/tiny")
    assert at(hub)["metrics.json"] == b'{"cases": {}}'


def test_the_hub_reads_the_metrics_of_the_card(hub, tmp_path):
    measured = [METRIC, {**METRIC, "name": "baseline loss", "value": 1.5}, {**METRIC, "data": "Other phantoms"}]
    publish(make_run(tmp_path / "tiny", metrics=measured).folder, "org/tiny")
    results = ModelCard(at(hub)["README.md"].decode()).data.eval_results
    found = [
        {
            "name": result.metric_name,
            "value": result.metric_value,
            "data": result.dataset_name,
            "protocol": result.metric_args["protocol"],
        }
        for result in results
    ]
    assert sorted(found, key=str) == sorted(measured, key=str)


def test_publishing_again_changes_nothing(hub, finished):
    first = publish(finished, "org/tiny")
    before = dict(at(hub))
    hub.log.clear()
    again = publish(finished, "org/tiny")
    assert (again.made, again.commit, again.files) == (False, first.commit, first.files)
    assert sent(hub) == [] and at(hub) == before


def test_two_repositories_of_one_run_hold_the_same_bytes(hub, finished):
    publish(finished, "org/tiny")
    publish(finished, "org/other")
    other = hub.repositories["org/other"]
    assert other.commits[other.tags["v1"]] == at(hub)


def test_a_tag_never_moves(hub, finished):
    publish(finished, "org/tiny")
    before = dict(at(hub))
    make_run(finished, b"other weights")
    with pytest.raises(WeightsError, match="hf://org/tiny@v1 exists with another README.md.*choose another --tag"):
        publish(finished, "org/tiny")
    assert at(hub) == before
    publish(finished, "org/tiny", "v2")
    assert at(hub) == before and at(hub, "v2")["model.safetensors"] == b"other weights"


def test_a_branch_is_no_tag(hub, finished):
    publish(finished, "org/tiny")
    with pytest.raises(WeightsError, match="'main' is a branch of org/tiny; choose another --tag"):
        publish(finished, "org/tiny", "main")


def test_files_that_the_model_has_no_longer_go_and_those_of_others_stay(hub, tmp_path):
    card = make_run(tmp_path / "tiny", others=EVERYTHING)
    publish(card.folder, "org/tiny")
    hub.hold("org/tiny", {**at(hub), "LICENSE": b"all of it", "notes/old.png": b"theirs"})
    for name in ("model.onnx", "curves.png"):
        (card.folder / name).unlink()
    write_card(update_card(card, onnx=None), card.folder)
    hub.log.clear()
    done = publish(card.folder, "org/tiny", "v2")
    assert done.deleted == ("curves.png", "model.onnx") and len(commits(hub)) == 1
    assert at(hub, "v2").keys() == at(hub).keys() - set(done.deleted) | {"LICENSE", "notes/old.png"}


def test_repository_and_tag_are_those_of_the_card(hub, finished):
    weights = artefact(real_weights(), repo="org/tiny", tag="2024.1")
    write_card(update_card(read_card(finished), weights=weights), finished)
    assert (publish(finished).repo, publish(finished).tag) == ("org/tiny", "2024.1")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "tiny names no repository on the Hub; give one with --repo org/name"),
        ({"repo": "../tiny"}, "--repo '../tiny' cannot be"),
        ({"repo": "tiny"}, "--repo 'tiny' cannot be"),
        ({"repo": "org/tiny", "tag": "../v1"}, "--tag '../v1' cannot be"),
    ],
)
def test_a_repository_or_tag_that_cannot_be_is_refused(hub, finished, options, sentence):
    with pytest.raises(UnknownNameError, match=sentence):
        publish(finished, **options)
    assert hub.log == []


def refused(hub, folder, kind, sentence):
    """Publishing the folder is refused with one sentence, nothing is asked or sent and nothing there is touched."""
    before = state(folder)
    with pytest.raises(kind, match=sentence) as caught:
        publish(folder, "org/tiny")
    assert "\n" not in str(caught.value)
    assert hub.log == [] and state(folder) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": None}, "tiny has no weights yet; make them with: mimzoo pretrain tiny --data DIR"),
        ({"metrics": []}, "tiny has no metrics; measure it with: mimzoo pretrain tiny --data DIR"),
        ({"command": None}, "tiny does not say how it was made"),
        ({"origin": ORIGIN}, r"comes from peer.pth, whose licence \(CC-BY-NC-4.0\) does not let others pass it on"),
        *(
            ({"licence": {"code": "Apache-2.0", "data": said, key: said}}, f"licence.{key} is .*, which states none")
            for key in ("code", "data")
            for said in (" ", "unknown", "None", "TODO", "see source", "see-source", "N/A", "?")
        ),
    ],
)
def test_what_a_card_leaves_open_is_refused(hub, tmp_path, changes, sentence):
    folder = make_run(tmp_path / "tiny").folder
    write_card(update_card(read_card(folder), **changes), folder)
    refused(hub, folder, CardError, sentence)


def test_what_may_be_passed_on_is_published_without_a_command(hub, finished):
    changes = {"command": None, "origin": {**ORIGIN, "republish": True}}
    write_card(update_card(read_card(finished), **changes), finished)
    assert publish(finished, "org/tiny").made


@pytest.mark.parametrize("name", sorted(ARTEFACTS.values()))
def test_a_file_that_is_not_the_one_of_the_card_is_refused(hub, tmp_path, name):
    folder = make_run(tmp_path / "tiny", others=EVERYTHING).folder
    content = (folder / name).read_bytes()
    for other in (content[:-1] + b"?", content + b"?"):
        (folder / name).write_bytes(other)
        refused(hub, folder, WeightsError, f"{name} is not the file that its card names")
    (folder / name).unlink()
    refused(hub, folder, WeightsError, f"{name} is not beside its card")


def test_a_graph_that_the_card_does_not_name_is_refused(hub, finished):
    (finished / "model.onnx").write_bytes(b"of other weights")
    refused(hub, finished, WeightsError, "model.onnx is not named by its card")


def stale(folder):
    """Make the card's `model-index` one of older metrics, and return the content that it should have."""
    right = (folder / "README.md").read_text()
    assert "value: 0.25\n      name: validation loss" in right
    (folder / "README.md").write_text(right.replace("value: 0.25\n      name", "value: 0.75\n      name"))
    return right.encode()


@pytest.mark.parametrize("how", ["stale", "missing"])
def test_a_model_index_that_is_not_that_of_the_metrics_is_made_anew(hub, finished, how):
    right = stale(finished)
    if how == "missing":
        front = yaml.safe_load(right.decode().split("---\n")[1])
        del front["model-index"]
        (finished / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n{read_card(finished).text}")
    assert publish(finished, "org/tiny").restated
    assert at(hub)["README.md"] == (finished / "README.md").read_bytes() == render_card(read_card(finished)).encode()
    assert not publish(finished, "org/tiny").restated


def test_a_card_in_another_hand_is_published_byte_for_byte(hub, finished):
    written = (finished / "README.md").read_bytes() + b"\nA word of its author.\n"
    written = written.replace(b"---\n", b"---\n# a comment\n", 1)
    (finished / "README.md").write_bytes(written)
    assert not publish(finished, "org/tiny").restated
    assert at(hub)["README.md"] == written


def test_a_dry_run_tells_the_plan_and_changes_nothing(hub, finished):
    stale(finished)
    before = state(finished)
    plan = publish(finished, "org/tiny", dry_run=True)
    assert plan.commit is None and not plan.made and plan.restated
    assert state(finished) == before and sent(hub) == [] and hub.repositories == {}
    done = publish(finished, "org/tiny")
    assert done.files == plan.files


def test_a_dry_run_names_what_would_be_deleted(hub, finished):
    hub.hold("org/tiny", {"model.onnx": b"old", "LICENSE": b"all of it"})
    assert publish(finished, "org/tiny", dry_run=True).deleted == ("model.onnx",)


def test_who_published_meanwhile_is_not_overwritten(hub, finished, monkeypatch):
    hub.hold("org/tiny", {"README.md": b"theirs"})
    ask = Handler.on_preupload

    def meanwhile(handler, body, repo, revision):
        hub.hold("org/tiny", {"README.md": b"theirs, once more"})
        return ask(handler, body, repo, revision)

    monkeypatch.setattr(Handler, "on_preupload", meanwhile)
    with pytest.raises(WeightsError, match="org/tiny: someone else published meanwhile"):
        publish(finished, "org/tiny")
    repository = hub.repositories["org/tiny"]
    assert repository.commits[repository.branches["main"]] == {"README.md": b"theirs, once more"}
    assert repository.tags == {}


def test_a_tag_that_was_made_meanwhile_is_left_alone(hub, finished, monkeypatch):
    ask = Handler.on_commit

    def meanwhile(handler, body, repo, revision):
        repository = hub.repositories[repo]
        repository.tags["v1"] = repository.branches["main"]
        return ask(handler, body, repo, revision)

    monkeypatch.setattr(Handler, "on_commit", meanwhile)
    with pytest.raises(WeightsError, match="hf://org/tiny@v1: someone else made this tag meanwhile"):
        publish(finished, "org/tiny")
    assert at(hub).keys() == {".gitattributes"}


@pytest.mark.parametrize("name", ["model.safetensors", "curves.png", "metrics.json"])
def test_what_comes_back_otherwise_loses_its_tag(hub, finished, name):
    (size,) = (file.bytes for file in publish(finished, "org/tiny", dry_run=True).files if file.name == name)
    hub.fail(f"GET /org/tiny/resolve/.*{name}", content=b"?" * size)
    with pytest.raises(WeightsError, match=f"{name} .*; the tag v1 was deleted again"):
        publish(finished, "org/tiny")
    assert hub.repositories["org/tiny"].tags == {}
    hub.log.clear()
    assert publish(finished, "org/tiny").made
    assert commits(hub) == []


def test_a_tag_that_cannot_be_deleted_is_named(hub, finished):
    hub.fail("GET /org/tiny/resolve/.*png", content=b"otherwise")
    hub.fail("DELETE", status=403)
    with pytest.raises(WeightsError, match="the tag v1 could not be deleted: delete it on the repository's page"):
        publish(finished, "org/tiny")


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, "nobody is logged in; set HF_TOKEN to a token with write access"),
        ("hf_wrong", r"no right to do this \(401\); set HF_TOKEN with write access"),
        ("hf_read", r"no right to do this \(403\); set HF_TOKEN with write access"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_without_the_right_to_write_nothing_is_made(hub, finished, monkeypatch, token, sentence, exists):
    if exists:
        hub.hold("org/tiny", {"LICENSE": b"all of it"})
    before = {name: list(repository.commits) for name, repository in hub.repositories.items()}
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MimzooError, match=sentence):
        publish(finished, "org/tiny")
    assert {name: list(repository.commits) for name, repository in hub.repositories.items()} == before


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("POST /api/repos/create", "org/tiny: the Hub answers 500"),
        ("POST .*/commit/", "org/tiny: the Hub answers 500"),
        ("POST .*/tag/", "hf://org/tiny@v1: the Hub answers 500"),
        ("POST /api/validate-yaml", "org/tiny: the Hub answers 500"),
    ],
)
def test_a_failure_on_the_way_leaves_no_tag_and_can_be_repeated(hub, finished, fault, sentence):
    hub.fail(fault, status=500)
    with pytest.raises(WeightsError, match=sentence):
        publish(finished, "org/tiny")
    assert all(not repository.tags for repository in hub.repositories.values())
    assert publish(finished, "org/tiny").made


def test_front_matter_that_the_hub_refuses_is_told_in_one_line(hub, finished, monkeypatch):
    errors = [{"message": '"license" must be one of a list'}, {"message": "and another"}]
    monkeypatch.setattr(Handler, "on_validate", lambda *_: (400, {"errors": errors, "warnings": []}))
    with pytest.raises(WeightsError, match='"license" must be one of a list - and another') as caught:
        publish(finished, "org/tiny")
    assert "\n" not in str(caught.value)


def test_a_private_model_is_one_from_the_start(hub, finished, monkeypatch):
    publish(finished, "org/tiny", private=True)
    assert hub.repositories["org/tiny"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UnknownNameError, match="no right to read it"):
        mimzoo.load("hf://org/tiny@v1")


def test_a_public_repository_gets_no_private_model(hub, finished):
    hub.hold("org/tiny", {"LICENSE": b"all of it"})
    with pytest.raises(WeightsError, match="org/tiny is public already; make it private"):
        publish(finished, "org/tiny", private=True)
    assert sent(hub) == []


def test_from_publishing_to_another_environment_by_commands(hub, finished, tmp_path):
    code, out, err = run(hub, tmp_path / "here", "publish", finished, "--repo", "org/tiny", "--dry-run")
    assert (code, err) == (0, []) and out[-1].startswith("dry run: hf://org/tiny@v1 (5 files")
    code, out, err = run(hub, tmp_path / "here", "publish", finished, "--repo", "org/tiny")
    assert (code, err) == (0, [])
    assert out[-1].startswith("published: hf://org/tiny@v1 (5 files") and out[-1].endswith("/org/tiny/tree/v1")
    digest = hashlib.sha256(real_weights()).hexdigest()
    assert [digest, str(len(real_weights())), "model.safetensors"] in [line.split() for line in out]
    code, out, err = run(hub, tmp_path / "here", "publish", finished, "--repo", "org/tiny")
    assert (code, err) == (0, []) and out[-1].startswith("nothing to do, the same content is there: hf://org/tiny@v1")
    code, out, err = run(hub, tmp_path / "there", "pull", "hf://org/tiny@v1")
    assert (code, err) == (0, []) and out[-1].startswith("tiny: encoder")
    assert files_of(tmp_path / "there" / "mimzoo" / "models" / "tiny")["model.safetensors"] == real_weights()


def test_a_refusal_is_one_line_on_the_command_line(hub, finished, tmp_path):
    code, out, err = run(hub, tmp_path, "publish", finished)
    assert (code, out) == (1, [])
    assert err == ["mimzoo: tiny names no repository on the Hub; give one with --repo org/name"]
