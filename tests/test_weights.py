"""Weights on disk: the same bytes each time, verified, whole or absent; loaded strictly."""

import hashlib
import json
import pickle
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from mimzoo.errors import WeightsError
from mimzoo.weights import adapt_channels, load_state, read_weights, save_weights


def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(3, 4, generator=generator),
        "layer.bias": torch.randn(3, generator=generator),
        "steps": torch.tensor(7),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_tensors_come_back_bit_for_bit(path):
    sha256, size = save_weights(path, state(), {"card": "x"})
    assert (sha256, size) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    found = read_weights(path, sha256)
    assert found.keys() == state().keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in state().items())


def test_the_metadata_is_one_key_of_sorted_json(path):
    save_weights(path, state(), {"b": 1, "a": [2]})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"mimzoo": '{"a": [2], "b": 1}'}


def test_the_same_tensors_give_the_same_bytes_in_another_process_and_order(path, tmp_path):
    sha256, _ = save_weights(path, state(), {"b": 1, "a": 2})
    code = (
        "import sys, json, torch; from pathlib import Path; from mimzoo.weights import save_weights, read_weights\n"
        "tensors = read_weights(Path(sys.argv[1])); backwards = dict(reversed(tensors.items()))\n"
        "print(save_weights(Path(sys.argv[2]), backwards, {'a': 2, 'b': 1})[0])"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "other.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256


@pytest.mark.parametrize(
    "shared",
    [
        lambda weight: {"a": weight, "b": weight},
        lambda weight: {"a": weight, "b": weight.T},
        lambda weight: {"a": weight, "b": weight[1:]},
    ],
)
def test_shared_tensors_are_refused_with_their_names(path, shared):
    with pytest.raises(WeightsError, match="'a' and 'b' share memory"):
        save_weights(path, shared(torch.randn(3, 3)), {})
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(path, value):
    with pytest.raises(WeightsError, match="'bad' holds NaN or Inf"):
        save_weights(path, {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}, {})
    assert not path.exists()


def test_views_and_parameters_are_saved_as_plain_tensors(path):
    layer = nn.Linear(4, 3)
    save_weights(path, {"weight": layer.weight, "turned": torch.randn(2, 5).T}, {})
    assert torch.equal(read_weights(path)["weight"], layer.weight)


def test_a_missing_file_is_said_so(path):
    with pytest.raises(WeightsError, match=f"cannot read the weights {path}: No such file"):
        read_weights(path, "0" * 64)


def test_another_file_than_the_cards_is_refused(path):
    save_weights(path, state(), {})
    with pytest.raises(WeightsError, match=r"not the file that its card names: sha256 .*, expected 000000000000\.\.\."):
        read_weights(path, "0" * 64)


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(deadline=None, max_examples=30)
def test_one_changed_byte_is_noticed(tmp_path_factory, where, change):
    path = tmp_path_factory.mktemp("changed") / "model.safetensors"
    sha256, size = save_weights(path, state(), {})
    content = bytearray(path.read_bytes())
    content[where % size] ^= change
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file that its card names"):
        read_weights(path, sha256)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_a_truncated_file_is_refused_even_without_a_hash(tmp_path_factory, where):
    path = tmp_path_factory.mktemp("short") / "model.safetensors"
    _, size = save_weights(path, state(), {})
    path.write_bytes(path.read_bytes()[: where % size])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        read_weights(path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "write", [lambda x, path: torch.save(x, path), lambda x, path: path.write_bytes(pickle.dumps(x))]
)
def test_a_renamed_pickle_is_refused_and_never_opened(path, tmp_path, write):
    write({"weight": Bomb(tmp_path / "boom")}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match="is a pickle"):
        read_weights(path, sha256)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 100, b"<html>not found</html>", b"\x02\0\0\0\0\0\0\0{}"])
def test_other_files_hold_no_weights(path, content):
    path.write_bytes(content)
    try:
        assert read_weights(path) == {}
    except WeightsError as error:
        assert "damaged" in str(error)


def test_a_header_that_promises_too_much_is_refused(path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path):
    """The file-size limit of a process acts as a disk that is full after 1000 bytes."""
    save_weights(tmp_path / "model.safetensors", state(), {})
    before = (tmp_path / "model.safetensors").read_bytes()
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from mimzoo.weights import save_weights\n"
        "from mimzoo.errors import WeightsError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    save_weights(Path(sys.argv[1]), {'a': torch.ones(1000)}, {})\n"
        "except WeightsError as error:\n    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.safetensors")], capture_output=True, text=True, check=True
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
    assert done.stdout.startswith(f"cannot write {tmp_path / 'model.safetensors'} (")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_folder_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(WeightsError, match="No such file or directory"):
        save_weights(tmp_path / "nowhere" / "model.safetensors", state(), {})


class Toy(nn.Module):
    def __init__(self, channels=1, grid=(2, 2, 2)):
        super().__init__()
        self.stem = nn.Conv3d(channels, 4, 2)
        self.positions = nn.Parameter(torch.randn(1, 4, *grid))
        self.register_buffer("steps", torch.tensor(0))


def test_a_state_that_fits_is_loaded_as_it_is():
    one, other = Toy(), Toy()
    report = load_state(one, other.state_dict())
    assert len(report.loaded) == 4
    assert report.complete()
    assert str(report) == "4 tensors loaded"
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_grid_and_input_channels_are_fitted_where_that_is_allowed():
    one, other = Toy(channels=3, grid=(4, 2, 3)), Toy()
    report = load_state(one, other.state_dict(), grids=["positions"], inputs=["stem.weight"])
    assert (report.resized, report.adapted) == (("positions",), ("stem.weight",))
    assert str(report) == "4 tensors loaded, resized positions, adapted stem.weight"
    assert torch.allclose(one.stem.weight.sum(1), other.stem.weight.sum(1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("stem.bias"), "1 missing: stem.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda s: s.update({f"e{n}": torch.ones(1) for n in range(5)}), "5 unexpected: e0, e1, e2 and 2 more"),
        (
            lambda s: s.update(positions=torch.ones(1, 4, 3, 3, 3)),
            r"positions \(1 x 4 x 3 x 3 x 3 float32 for 1 x 4 x 2",
        ),
        (lambda s: s.update({"stem.weight": torch.ones(4, 2, 2, 2, 2)}), "of another shape or kind: stem.weight"),
        (lambda s: s.update(positions=torch.ones(1, 4, 2, 2, 2, dtype=torch.int64)), "int64 for"),
        (lambda s: s.update(steps=torch.tensor(1.0)), "steps"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, sentence):
    toy, given = Toy(), Toy().state_dict()
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    change(given)
    with pytest.raises(WeightsError, match=sentence):
        load_state(toy, given)
    assert all(torch.equal(before[key], value) for key, value in toy.state_dict().items())


def test_half_precision_is_stored_and_comes_back_in_the_modules_own(path):
    one, other = Toy(), Toy()
    half = {key: value.half() if value.is_floating_point() else value for key, value in other.state_dict().items()}
    _, size = save_weights(path, half, {})
    assert size < save_weights(path.with_name("full"), other.state_dict(), {})[1]
    load_state(one, read_weights(path))
    assert one.positions.dtype == torch.float32
    assert torch.equal(one.positions, other.positions.half().float())


@given(st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None)
def test_a_volume_alike_in_all_channels_gives_the_same_response_after_adapting(before, after):
    weight = torch.randn(3, before, 2, 2, 2)
    adapted = adapt_channels(weight, after)
    assert adapted.shape == (3, after, 2, 2, 2)
    assert torch.allclose(adapted.sum(1), weight.sum(1), atol=1e-5)
