"""The Hub on a bad day: down, slow, forbidding, failing, cut off, lying; one sentence each time, nothing half-kept."""

import errno
import json
import pickle
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hub_models import artefact, files_of, make_run, real_weights, run

import mimzoo
from mimzoo.cards import store_folder, update_card, write_card
from mimzoo.errors import UnknownNameError, WeightsError
from mimzoo.hub import find_model
from mimzoo.stored import pull

REFERENCE = "hf://org/tiny@v1"
INFO, HEAD, GET = "GET /api/models/org/tiny", "HEAD .*model.safetensors", "GET /org/.*model.safetensors"


@pytest.fixture
def tiny(hub, tmp_path):
    """The card of a run that lies on the Hub as org/tiny under the tag v1."""
    card = make_run(tmp_path / "tiny", real_weights())
    hub.hold("org/tiny", files_of(card.folder), "v1")
    return card


def kept(hub):
    """The contents of all files in the cache that a model could be read from, whole or half."""
    return {path.resolve().read_bytes() for path in hub.cache.rglob("*") if path.is_file() and ".lock" not in path.name}


def refused(sentence, kind=WeightsError):
    """What the model cannot be found for, as one line."""
    with pytest.raises(kind, match=sentence) as caught:
        find_model(REFERENCE)
    assert "\n" not in str(caught.value)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_server_that_is_down_is_said_so(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    refused("hf://org/tiny@v1: the Hub cannot be reached; check the network and HF_ENDPOINT")


def test_a_branch_that_is_cached_names_the_way_to_use_it_offline(hub, tiny, monkeypatch):
    hub.hold("org/tiny", files_of(tiny.folder))
    find_model("hf://org/tiny@main")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(WeightsError, match="cannot be reached.*HF_HUB_OFFLINE=1 takes what was seen last"):
        find_model("hf://org/tiny@main")


def test_an_address_that_is_none_is_said_so(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    refused("the Hub cannot be reached; check the network and HF_ENDPOINT")


@pytest.mark.parametrize("route", [INFO, HEAD])
def test_a_slow_server_is_waited_for_until_the_time_is_up(hub, tiny, route, monkeypatch):
    hub.fail(route, seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
        if route == INFO:
            refused("the Hub did not answer in time; try again, or raise HF_HUB_ETAG_TIMEOUT")
        else:
            # The client itself asks a second time, with more patience.
            find_model(REFERENCE)
    assert find_model(REFERENCE).block == tiny.block


@pytest.mark.parametrize(
    ("status", "code", "kind", "sentence"),
    [
        (401, "", WeightsError, r"the Hub gives no right to do this \(401\); set HF_TOKEN with read access"),
        (403, "", WeightsError, r"the Hub gives no right to do this \(403\); set HF_TOKEN with read access"),
        (403, "GatedRepo", UnknownNameError, "is given out on request; ask for it on its page and set HF_TOKEN"),
        (401, "RepoNotFound", UnknownNameError, "no such repository, or no right to read it"),
        (404, "", WeightsError, "the Hub answers 404"),
        (429, "", WeightsError, r"the Hub answers 429 \(asked for\); try again later"),
    ],
)
def test_an_answer_that_is_an_error_is_said_so(hub, tiny, status, code, kind, sentence):
    hub.fail(INFO, status=status, code=code)
    refused(sentence, kind)


@pytest.mark.parametrize("route", [INFO, HEAD, GET])
def test_a_server_that_fails_for_a_moment_is_asked_again(hub, tiny, route):
    hub.fail(route, status=500, times=2 if route != HEAD else 1)
    assert mimzoo.load(REFERENCE).report.complete()


@pytest.mark.parametrize("route", [INFO, GET])
def test_a_server_that_keeps_failing_is_said_so_and_no_weights_are_kept(hub, tiny, route):
    hub.fail(route, status=503, times=3)
    refused("the Hub answers 503")
    assert real_weights() not in kept(hub)
    assert find_model(REFERENCE).block == tiny.block


def test_a_connection_cut_in_the_middle_of_the_weights_is_taken_up_again(hub, tiny):
    hub.fail(GET, cut_after=1000)
    path = find_model(REFERENCE).file("model.safetensors")
    assert path.read_bytes() == real_weights()
    assert len([line for line in hub.log if line.startswith("GET /org/tiny") and "model.safetensors" in line]) == 2


def test_a_connection_cut_for_good_leaves_no_half_file(hub, tiny):
    hub.fail(GET, cut_after=1000)
    hub.fail(GET, status=404)
    refused("the Hub answers 404")
    assert not any(content and real_weights().startswith(content) for content in kept(hub))
    assert not list(hub.cache.rglob("README.md"))
    assert mimzoo.load(REFERENCE).report.complete()


def test_wrong_bytes_are_refused_and_not_kept(hub, tiny):
    wrong = bytes(byte ^ 1 for byte in real_weights())
    hub.fail(GET, content=wrong)
    refused("hf://org/tiny@v1: model.safetensors is not the file that its card names: sha256 .*thrown away")
    assert wrong not in kept(hub)
    assert mimzoo.load(REFERENCE).report.complete()


def test_wrong_bytes_never_reach_the_local_store(hub, tiny):
    hub.fail(GET, content=b"wrong".ljust(len(real_weights())))
    with pytest.raises(WeightsError, match="not the file that its card names"):
        pull(REFERENCE)
    assert not store_folder("tiny").exists() and not list(store_folder("tiny").parent.iterdir())
    assert pull(REFERENCE).block == tiny.block


def lying_safetensors():
    """A file whose header speaks of a tensor that is larger than the file."""
    header = json.dumps({"encoder.patch.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(64)


class Harm:
    """What a pickle would do."""

    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps({"encoder.patch.weight": Harm()}), "pickle.* so nothing of it is read"),
        (lying_safetensors(), "damaged.* so nothing of it is read"),
        (struct.pack("<Q", 1 << 60) + bytes(64), "damaged.* so nothing of it is read"),
        (real_weights()[:8] + b"~" + real_weights()[9:], "damaged.* so nothing of it is read"),
    ],
    ids=["pickle", "size", "header-size", "header"],
)
def test_a_published_file_that_is_no_sound_safetensors_is_not_read(hub, tiny, tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(tmp_path)
    write_card(update_card(tiny, weights=artefact(content)), tiny.folder)
    hub.hold("org/tiny", {**files_of(tiny.folder), "model.safetensors": content}, "v2")
    with pytest.raises(WeightsError, match=sentence):
        mimzoo.load("hf://org/tiny@v2")
    assert not (tmp_path / "harm").exists()


def test_a_cache_that_cannot_be_written_is_said_so(hub, tiny):
    hub.cache.mkdir()
    (hub.cache / "models--org--tiny").write_text("a file where a folder should be made")
    refused("hf://org/tiny@v1: .*models--org--tiny.*; free space, or let HF_HOME name another folder")


def test_what_is_pinned_and_cached_is_found_without_writing(hub, tiny):
    card = find_model(REFERENCE)
    before = {path: path.stat().st_mtime_ns for path in (hub.cache, *hub.cache.rglob("*"))}
    assert find_model(REFERENCE) == card
    assert {path: path.stat().st_mtime_ns for path in (hub.cache, *hub.cache.rglob("*"))} == before


def full(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_so_and_the_next_call_succeeds(hub, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        refused("No space left on device; free space, or let HF_HOME name another folder")
        with pytest.raises(WeightsError, match="No space left on device; .*let MIMZOO_HOME name another folder"):
            pull(REFERENCE)
    assert mimzoo.load(REFERENCE).report.complete()


def test_a_full_disk_leaves_nothing_in_the_local_store(hub, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mimzoo.stored.shutil.copyfile", full)
        with pytest.raises(WeightsError, match="No space left on device.*let MIMZOO_HOME name another folder"):
            pull(REFERENCE)
    assert not list(store_folder("tiny").parent.iterdir())


class NoHub(BaseHTTPRequestHandler):
    """Answers everything with a page."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("page", [b"<html>welcome</html>", b"{}", b"[]"])
def test_a_server_that_is_no_hub_is_said_so(hub, page, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), NoHub) as server:
        server.page = page
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        refused("nothing sound came from the Hub.*check HF_ENDPOINT")
        server.shutdown()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"pattern": INFO, "status": 403}, "mimzoo: hf://org/tiny@v1: the Hub gives no right to do this (403)"),
        ({"pattern": GET, "content": b"wrong"}, "mimzoo: hf://org/tiny@v1"),
    ],
)
def test_the_command_line_prints_the_sentence_alone(hub, tiny, tmp_path, fault, sentence):
    hub.fail(**fault)
    code, out, err = run(hub, tmp_path, "pull", REFERENCE)
    assert (code, out, len(err)) == (1, [], 1), err
    assert err[0].startswith(sentence)
