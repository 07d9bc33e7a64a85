"""Fixtures shared by all tests: an isolated home, no network, the real scans where they are at hand."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

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
