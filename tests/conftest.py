"""Fixtures shared by all tests: an isolated home, no network, the real scans where they are at hand."""

import os
import threading
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Tests in processes of their own are given the width of a terminal, to which tables would be cut.
os.environ.pop("COLUMNS", None)

import pytest

DATA_ROOT = Path(os.environ.get("MIMZOO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A fresh MIMZOO_HOME for every test, so that no test sees what another left."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MIMZOO_HOME", str(folder))
    return folder


@pytest.fixture
def data_root():
    """The folder of real scans, named by MIMZOO_TEST_DATA."""
    if not DATA_ROOT.is_dir():
        pytest.skip("real scans are not at hand: set MIMZOO_TEST_DATA to their folder")
    return DATA_ROOT


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A small generated data set: 4 training, 2 validation, 2 unlabelled CT-like scans."""
    from mimzoo.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, {"training": 4, "validation": 2, "unlabelled": 2}, 3, (24, 24, 20), (13.0, 13.0, 14.0))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of its own for a test: its state, with `address` and `cache`; the client is sent there with a token."""
    from hub_server import Server
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from mimzoo import endpoint

    server = Server(0, {"hf_write": "write", "hf_read": "read"})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub, hub.address, hub.cache = server.hub, server.address, tmp_path / "hub-cache"
    settings = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(hub.cache)}
    settings["HF_TOKEN_PATH"] = str(tmp_path / "no-token")
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr(endpoint, "PAUSES", (0.01, 0.02))
    close_session()
    yield hub
    server.shutdown()
    server.server_close()
    close_session()


TINY = {
    "all": [
        "encoder.args={patch: [8, 8, 8], width: 24, depth: 4, heads: 3}",
        "input.spacing_mm=[13.0, 13.0, 14.0]",
        "input.crop=[16, 16, 16]",
    ],
    "pretraining": [
        "pretraining.steps=6",
        "pretraining.validate_every=3",
        "pretraining.batch=2",
        "pretraining.decoder.args={width: 12, depth: 1, heads: 1}",
    ],
    "finetuning": [
        "finetuning.steps=6",
        "finetuning.validate_every=3",
        "finetuning.start=null",
        "finetuning.head.args={width: 2}",
    ],
}


def tiny(recipe, name):
    """The card `name`, made so small that its `recipe` trains in seconds."""
    from mimzoo.cards import find_card, override

    return override(find_card(name), [*TINY["all"], *TINY[recipe]])


@pytest.fixture
def tiny_encoder():
    """The card of an encoder so small that it trains in seconds."""
    return tiny("pretraining", "vit-mae-phantom")


@pytest.fixture
def tiny_segmenter():
    """The card of a segmenter so small that it trains in seconds."""
    return tiny("finetuning", "vit-mae-phantom-seg")


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
