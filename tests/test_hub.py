"""Models on the Hub: references, a cached model without network, what is not there."""

import shutil

import pytest

from mimzoo.cards import find_card
from mimzoo.errors import UnknownNameError, WeightsError
from mimzoo.hub import fetch, find_model, parse_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache that holds one model at one commit, as huggingface_hub lays it out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--org--name"
    snapshot = folder / "snapshots" / COMMIT
    shutil.copytree(find_card("vit-mae-phantom-seg").folder, snapshot)
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_cached_model_needs_no_network(cached, revision):
    card = find_model(f"hf://org/name@{revision}")
    assert card.name == "name" and card.folder == cached
    assert card.block == find_card("vit-mae-phantom-seg").block


def test_what_is_not_cached_says_so(cached):
    with pytest.raises(
        WeightsError, match=r"hf://org/other@v1 is not in the local cache and the Hub cannot be reached"
    ):
        fetch(parse_reference("hf://org/other@v1"))


@pytest.mark.parametrize("text", ["hf://org/name", "hf://name@v1", "hf://org/name@", "hf://a/b/c@v1"])
def test_a_reference_needs_repository_and_revision(text):
    with pytest.raises(UnknownNameError, match="write hf://org/name@tag"):
        find_model(text)
