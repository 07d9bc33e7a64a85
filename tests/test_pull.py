"""The local store: models brought from the Hub, whole, verified, found by name without network."""

import pytest
from hub_models import artefact, command, files_of, make_run, real_weights, run

import mimzoo
from mimzoo.cards import find_card, mimzoo_home, store_folder, update_card, write_card
from mimzoo.errors import CardError, UnknownNameError, WeightsError
from mimzoo.hub import find_model
from mimzoo.registry import Offer, Registry, registry
from mimzoo.stored import pull

REFERENCE = "hf://org/tiny@v1"


@pytest.fixture
def tiny(hub, tmp_path):
    """The card of a run that lies on the Hub as org/tiny under the tag v1."""
    card = make_run(tmp_path / "tiny", real_weights())
    hub.hold("org/tiny", {**files_of(card.folder), "LICENSE": b"all of it"}, "v1")
    return card


@pytest.fixture
def offer(tiny, tmp_path, monkeypatch):
    """A function that lets a plugin offer a card of a name, whose weights lie on the Hub."""

    def offered(name, content, **where):
        folder = tmp_path / "cards" / name
        write_card(update_card(tiny, weights=artefact(content, **where)), folder)
        found, mine = registry(), Offer("card", name, str(folder), "third", "third-party 1.0")
        known = Registry({**found.plugins, "third": mine.distribution}, (*found.offers, mine), found.failures)
        monkeypatch.setattr("mimzoo.cards.registry", lambda: known)
        return folder

    return offered


def stored():
    """What the local store holds: path -> content, whatever lies about included."""
    return {
        str(path.relative_to(mimzoo_home())): path.read_bytes() for path in mimzoo_home().rglob("*") if path.is_file()
    }


def downloads(hub):
    return [line for line in hub.log if "/resolve/" in line]


def test_a_pulled_model_loads_by_its_name_without_network(hub, tiny, monkeypatch):
    card = pull(REFERENCE)
    assert (card.name, card.folder, card.block) == ("tiny", store_folder("tiny"), tiny.block)
    assert stored() == {f"models/tiny/{name}": content for name, content in files_of(tiny.folder).items()}
    hub.log.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert mimzoo.load("tiny").report.complete()
    assert hub.log == []


def test_a_model_may_be_called_otherwise_here(tiny):
    assert pull(REFERENCE, "mine").name == "mine"
    assert find_card("mine").block == tiny.block
    with pytest.raises(UnknownNameError):
        find_card("tiny")


def test_what_is_there_already_is_not_downloaded_again(hub, tiny):
    first = pull(REFERENCE)
    before = stored()
    hub.log.clear()
    assert pull(REFERENCE) == first
    assert downloads(hub) == [] and stored() == before


def test_what_is_cached_is_not_downloaded_again(hub, tiny):
    find_model(REFERENCE)
    hub.log.clear()
    assert pull(REFERENCE).block == tiny.block
    assert hub.log == []
    assert (store_folder("tiny") / "model.safetensors").is_symlink() is False


def test_another_model_of_that_name_is_left_alone(hub, tiny, tmp_path):
    pull(REFERENCE)
    before = stored()
    hub.hold("org/tiny", files_of(make_run(tmp_path / "other", b"other weights").folder), "v2")
    with pytest.raises(CardError, match="tiny holds something else already; give this model another name with --name"):
        pull("hf://org/tiny@v2")
    assert stored() == before
    assert pull("hf://org/tiny@v2", "tiny-2").block.weights.bytes == len(b"other weights")


def test_a_name_that_could_not_be_found_again_is_refused(hub, tiny):
    hub.hold("org/Tiny_2", files_of(tiny.folder), "v1")
    for reference, name in (("hf://org/Tiny_2@v1", None), (REFERENCE, "../evil"), (REFERENCE, "Mine")):
        with pytest.raises(
            UnknownNameError, match="is no model name; give it one of small letters and hyphens with --name"
        ):
            pull(reference, name)
    assert hub.log == [] and stored() == {}
    assert pull("hf://org/Tiny_2@v1", "tiny-2").block == tiny.block


def test_a_folder_needs_no_pulling(tiny):
    with pytest.raises(UnknownNameError, match="is a folder and needs no pulling"):
        pull(str(tiny.folder))


def test_a_plugins_model_is_pulled_by_its_name_and_its_card_stays_the_truth(hub, offer, monkeypatch):
    folder = offer("third-tiny", real_weights(), repo="org/tiny", tag="v1")
    write_card(update_card(find_card("third-tiny"), licence={"code": "Apache-2.0", "data": "CC0-1.0"}), folder)
    card = pull("third-tiny")
    assert card.folder == store_folder("third-tiny") and card.block.licence.data == "CC0-1.0"
    hub.log.clear()
    assert mimzoo.load("third-tiny").card.block.licence.data == "CC0-1.0"
    assert pull("third-tiny") == card
    assert hub.log == []


def test_a_plugins_model_may_be_pulled_by_its_reference(offer, tiny):
    offer("tiny", real_weights())
    assert pull(REFERENCE).folder == store_folder("tiny")
    assert mimzoo.load("tiny").report.complete()


def test_the_name_of_a_plugins_other_model_is_refused(hub, offer):
    offer("tiny", b"other weights")
    with pytest.raises(
        CardError, match="a plugin offers another model called 'tiny'; give this one a name with --name"
    ):
        pull(REFERENCE)
    assert downloads(hub) == [] and stored() == {}


def test_weights_that_are_not_those_of_a_plugins_card_are_not_kept(hub, offer):
    offer("mine", b"other weights", repo="org/tiny", tag="v1")
    with pytest.raises(WeightsError, match="hf://org/tiny@v1: model.safetensors is not the file that its card names"):
        pull("mine")
    assert stored() == {}


def test_what_was_damaged_in_the_cache_does_not_reach_the_store(hub, tiny):
    find_model(REFERENCE).file("model.safetensors").resolve().write_bytes(b"damaged")
    assert pull(REFERENCE).file("model.safetensors").read_bytes() == real_weights()


@pytest.mark.parametrize(
    ("reference", "kind", "sentence"),
    [
        ("vit-mae-phantom", WeightsError, "the card vit-mae-phantom states no repository and tag; pull it as hf://"),
        ("vit-mae-phantm", UnknownNameError, "did you mean 'vit-mae-phantom'"),
        ("hf://org/tiny@v2", UnknownNameError, "no such revision"),
        ("hf://org/tiny", UnknownNameError, "write hf://org/name@tag"),
    ],
)
def test_what_cannot_be_pulled_gets_one_sentence(tiny, reference, kind, sentence):
    with pytest.raises(kind, match=sentence):
        pull(reference)
    assert stored() == {}


def test_a_store_that_cannot_be_written_is_said_so(tiny, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").write_text("a file where a folder should be made")
    monkeypatch.setenv("MIMZOO_HOME", str(tmp_path / "home"))
    with pytest.raises(WeightsError, match="home/models; free space, or let MIMZOO_HOME name another folder"):
        pull(REFERENCE)


def test_two_processes_that_pull_one_model_end_well_with_one_copy(hub, tiny, tmp_path):
    hub.fail("GET /org/tiny/resolve/.*model.safetensors", seconds=0.5, times=2)
    processes = [command(hub, tmp_path, "pull", REFERENCE) for _ in range(2)]
    outcomes = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for _, _, code in outcomes] == [0, 0], outcomes
    models = tmp_path / "mimzoo" / "models"
    assert [path.name for path in models.iterdir()] == ["tiny"]
    assert files_of(models / "tiny") == files_of(tiny.folder)
    assert hub.faults[0].times == 0


def test_the_command_says_what_it_brought_and_where(hub, tiny, tmp_path):
    folder = tmp_path / "mimzoo" / "models" / "tiny"
    # What the client goes on about while it tries again is not for the eye.
    hub.fail("GET /org/tiny/resolve/.*model.safetensors", cut_after=1000)
    for state in ("now", "there already"):
        code, out, err = run(hub, tmp_path, "pull", REFERENCE)
        assert (code, out, err) == (0, [f"tiny: encoder, 0.1 MB {state} in {folder}"], [])
    code, out, err = run(hub, tmp_path, "pull", REFERENCE, "--name", "Mine")
    assert (code, out) == (1, []) and err == [
        "mimzoo: 'Mine' is no model name; give it one of small letters and hyphens with --name"
    ]
