"""Files are hashed until found right, and again whenever anything about them may have changed."""

import hashlib
import os

import pytest

from mimzoo import verified
from mimzoo.errors import WeightsError
from mimzoo.verified import verify

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    return tmp_path / "model.safetensors"


@pytest.fixture
def hashed(monkeypatch):
    """How many files were hashed."""
    done, digest = [], hashlib.file_digest

    def count(file, name):
        done.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    return done


@pytest.fixture
def settled(monkeypatch):
    """As if every file had changed long ago: no program can set back when its entry last changed."""
    monkeypatch.setattr(verified, "SETTLED_NS", -1)


def test_a_file_that_has_not_changed_is_hashed_once(path, hashed, settled):
    for _ in range(3):
        verify(path, SHA256)
    assert len(hashed) == 1


def test_a_file_that_changed_a_moment_ago_is_hashed_every_time(path, hashed):
    for _ in range(3):
        verify(path, SHA256)
    assert len(hashed) == 3


def test_another_content_of_the_same_size_and_time_is_refused(path, settled):
    verify(path, SHA256)
    before = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(WeightsError, match=f"is not the file that its card names: .*, expected {SHA256[:12]}"):
        verify(path, SHA256)


def test_another_file_in_its_place_is_refused(path, settled):
    verify(path, SHA256)
    (path.parent / "other").write_bytes(CONTENT[::-1])
    (path.parent / "other").replace(path)
    with pytest.raises(WeightsError, match="is not the file that its card names"):
        verify(path, SHA256)


def test_a_file_that_was_found_right_is_not_right_for_another_card(path, settled):
    verify(path, SHA256)
    with pytest.raises(WeightsError, match="expected 000000000000"):
        verify(path, "0" * 64)


def test_what_was_refused_is_refused_again(path, settled):
    for _ in range(2):
        with pytest.raises(WeightsError, match="is not the file that its card names"):
            verify(path, "0" * 64)


def test_without_a_store_to_note_it_in_a_file_is_hashed_every_time(path, hashed, settled, home):
    (home / "verified").write_text("a file where a folder would be")
    for _ in range(2):
        verify(path, SHA256)
    assert len(hashed) == 2


def test_a_missing_file_is_said_so(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot read the weights .*model\.safetensors: No such file"):
        verify(tmp_path / "model.safetensors", SHA256)
